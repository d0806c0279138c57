"""Half precision against float32 on sample takes: the same proposals, the same masks, the same scores?

python benchmarks/precision.py [--model weights/xseg-tiny] [--takes 4] [--device cpu] [--dtypes float16 bfloat16]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.jobs import predict as predict_file
from egoexo_xseg.jobs.evaluate import evaluate
from egoexo_xseg.jobs.pack import pack
from egoexo_xseg.jobs.predict import PredictOptions, answer_pairs, predict
from egoexo_xseg.jobs.prepare import prepare
from egoexo_xseg.jobs.sample import write_sample
from egoexo_xseg.model.answers import Segmentation
from egoexo_xseg.records import Pair

MODEL = Path(__file__).parents[1] / "weights" / "xseg-tiny"
SEED = 5005
ROUGH = ("float16", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--takes", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtypes", nargs="+", default=ROUGH, choices=ROUGH)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sample(folder / "raw", seed=SEED, takes=options.takes, split="val")
        prepare(folder / "raw", folder / "data", split="val")
        exact = Run.of(folder, options, "float32")
        for dtype in options.dtypes:
            compare(exact, Run.of(folder, options, dtype), dtype)


@dataclass
class Run:
    """All that one type answered, in the order of asking, and how it scores."""

    answers: list[tuple[Pair, Segmentation]]
    scores: dict[str, dict]

    @classmethod
    def of(cls, folder: Path, options: argparse.Namespace, dtype: str) -> Run:
        out, answers = folder / f"pred-{dtype}", []

        def keep(*given) -> list[tuple[Pair, Segmentation]]:
            answers.extend(found := answer_pairs(*given))
            return found

        with patch.object(predict_file, "answer_pairs", keep):
            predict(PredictOptions(folder / "data", out, None, str(options.model), device=options.device, dtype=dtype))
        annotations = open_annotations(folder / "data")
        pack(out, annotations, folder / f"{dtype}.json")
        return cls(answers, evaluate([folder / f"{dtype}.json"], annotations).to_json())


def compare(exact: Run, rough: Run, dtype: str) -> None:
    visible, same, overlaps = agree(exact.answers, rough.answers)
    every = np.ones_like(visible)
    for name, chosen in (("all", every), ("visible", visible), ("hidden", ~visible)):
        if chosen.any():
            print(f"{dtype}, {chosen.sum()} objects, {name}: as in float32 the proposals of {same[chosen].mean():.2%}")
            own = overlaps[chosen & same].mean()
            print(f"IoU of the masks: {overlaps[chosen].mean():.4f}, of the same proposals {own:.4f}")
    for direction, own in exact.scores.items():
        for figure, value in own.items():
            if isinstance(value, float):
                change = rough.scores[direction][figure] - value
                print(f"{dtype}, {direction} {figure}: {value:.4f} in float32, {change:+.4f}")


def agree(
    exact: Sequence[tuple[Pair, Segmentation]], rough: Sequence[tuple[Pair, Segmentation]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each object whether it is visible, whether both types chose the same proposal, and the masks' overlap."""
    visible, same, overlaps = [], [], []
    for (pair, one), (_, other) in zip(exact, rough, strict=True):
        visible += [entry.target_mask is not None for entry in pair.objects]
        same += (one.proposals == other.proposals).tolist()
        both, either = (one.masks & other.masks).sum((1, 2)), (one.masks | other.masks).sum((1, 2))
        overlaps += torch.where(either > 0, both / either.clamp(min=1), 1.0).tolist()
    return np.array(visible), np.array(same), np.array(overlaps)


if __name__ == "__main__":
    main()
