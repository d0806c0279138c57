"""Half precision against float32 on sample takes: the same proposals, the same masks, the same scores?

python benchmarks/precision.py [--model weights/xseg-tiny] [--takes 4] [--device cpu]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.jobs.evaluate import evaluate
from egoexo_xseg.jobs.pack import pack
from egoexo_xseg.jobs.predict import PredictOptions, Predictor, predict
from egoexo_xseg.jobs.prepare import prepare
from egoexo_xseg.jobs.sample import write_sample
from egoexo_xseg.masks import scored_hw
from egoexo_xseg.model.answers import segment
from egoexo_xseg.model.inputs import collate
from egoexo_xseg.records import Direction

MODEL = Path(__file__).parents[1] / "weights" / "xseg-tiny"
SEED = 5005
ROUGH = ("float16", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--takes", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sample(folder / "raw", seed=SEED, takes=options.takes, split="val")
        prepare(folder / "raw", folder / "data", split="val")
        exact = score(folder, options, "float32")
        for dtype in ROUGH:
            same, overlaps = agree(folder, options, dtype)
            print(f"{dtype}, {len(same)} objects: the same proposal as in float32 for {np.mean(same):.2%}")
            print(
                f"IoU of the masks: mean {np.mean(overlaps):.4f}, of the same proposals {np.mean(overlaps[same]):.4f}"
            )
            rough = score(folder, options, dtype)
            for direction, own in exact.items():
                for figure, value in own.items():
                    if isinstance(value, float):
                        print(f"{direction} {figure}: {value:.4f} in float32, {rough[direction][figure] - value:+.4f}")


def predict_options(folder: Path, options: argparse.Namespace, dtype: str) -> PredictOptions:
    out = folder / f"pred-{dtype}"
    return PredictOptions(folder / "data", out, None, str(options.model), device=options.device, dtype=dtype).settled()


def score(folder: Path, options: argparse.Namespace, dtype: str) -> dict:
    wanted = predict_options(folder, options, dtype)
    predict(wanted)
    annotations = open_annotations(folder / "data")
    pack(wanted.out, annotations, folder / f"{dtype}.json")
    return evaluate([folder / f"{dtype}.json"], annotations).to_json()


@torch.inference_mode()
def agree(folder: Path, options: argparse.Namespace, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """For each object whether both types chose the same proposal, and the overlap of their masks."""
    exact, rough = (Predictor(predict_options(folder, options, name), options.model) for name in ("float32", dtype))
    same, overlaps = [], []
    for take in open_annotations(folder / "data"):
        for batch in exact.iter_batches(take, list(Direction), None, []):
            samples = collate([sample for _, sample in batch]).to(options.device)
            sizes = [scored_hw(pair.target_hw) for pair, _ in batch]
            answers = (segment(predictor.segmenter, samples, sizes) for predictor in (exact, rough))
            for one, other in zip(*answers, strict=True):
                same += (one.proposals == other.proposals).tolist()
                both, either = (one.masks & other.masks).sum((1, 2)), (one.masks | other.masks).sum((1, 2))
                overlaps += torch.where(either > 0, both / either.clamp(min=1), 1.0).tolist()
    return np.array(same), np.array(overlaps)


if __name__ == "__main__":
    main()
