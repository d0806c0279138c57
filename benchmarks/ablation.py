"""The paper's ablation on the sample world: every variant from scratch, the same budget, several seeds.

    python benchmarks/ablation.py --out ablation --steps 2000

Trains each variant on drawn scenes, predicts takes that no training saw (those of scores.py) with right, shuffled and
no captions, and writes OUT/ablation.json and OUT/ablation.md. A run that was stopped goes on where it was; --only
trains a part, so that several machines can share the work and one of them collects it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scores import SPLIT, WEIGHTS, score

from egoexo_xseg.config import TrainConfig
from egoexo_xseg.data.annotations import Annotations, open_annotations
from egoexo_xseg.data.scoring import ScoredSample
from egoexo_xseg.data.submission import written_whole
from egoexo_xseg.jobs.caption import CaptionOptions, caption
from egoexo_xseg.jobs.evaluate import resample
from egoexo_xseg.jobs.predict import PredictOptions, predict
from egoexo_xseg.jobs.prepare import prepare
from egoexo_xseg.jobs.sample import write_sample
from egoexo_xseg.jobs.train import TrainOptions, train
from egoexo_xseg.records import Direction

RECIPE = {
    "stage": "all", "batch_size": 8, "lr": 1e-3, "final_lr": 0.03, "warmup": 0.02, "betas": (0.9, 0.98),
    "weight_decay": 0.02, "num_points": None, "image_size": 192, "keep_last": 1,
}  # fmt: skip

PLAIN = {"alignment": "none", "fusion": "released", "caption_share": 0.0}
TEXT = {"caption_share": 0.8, "caption_noise": 0.1}
CONTRAST = {"alignment": "contrast", "alignment_weight": 3.0}
VARIANTS = {
    "base": PLAIN,
    "+ XObjAlign, released": PLAIN | {"alignment": "released"},
    "+ XObjAlign, contrastive": PLAIN | CONTRAST,
    "+ MCFuse, released": PLAIN | TEXT,
    "+ MCFuse, per object": PLAIN | TEXT | {"fusion": "per_object"},
    "+ both, released": PLAIN | TEXT | {"alignment": "released"},
    "+ both, ours": PLAIN | TEXT | CONTRAST | {"fusion": "per_object"},
    "+ both, ours, no negatives": PLAIN | TEXT | CONTRAST | {"fusion": "per_object", "negatives": False},
}
"""Without captions in training there is nothing to fuse: the base and the alignments alone are asked without them."""


@dataclass(frozen=True)
class Run:
    """One variant with one seed."""

    name: str
    seed: int

    @property
    def folder(self) -> str:
        return f"{list(VARIANTS).index(self.name)}-{self.seed}"

    @property
    def told(self) -> tuple[str, ...]:
        return ("none", "right", "shuffled") if VARIANTS[self.name]["caption_share"] else ("none",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("ablation"))
    parser.add_argument("--steps", type=int, required=True, help="of 8 records, for each variant and seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--takes", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", help="variants whose number is among these, such as 0,3: no table")
    options = parser.parse_args()
    raw, data, captions = (options.out / name for name in ("raw", "data", "captions.jsonl"))
    if not (raw / "split.json").is_file():
        write_sample(raw, seed=1001, takes=options.takes, split=SPLIT)
    prepare(raw, data, split=SPLIT)
    caption(CaptionOptions(data, captions, str(WEIGHTS / "captioner-tiny"), split=SPLIT, device=options.device))
    annotations = open_annotations(data, split=SPLIT)
    names = list(VARIANTS) if options.only is None else [list(VARIANTS)[int(n)] for n in options.only.split(",")]
    rows = []
    for run in (Run(name, seed) for seed in range(options.seeds) for name in names):
        learn(run, options)
        rows += [measure(run, told, annotations, captions, options) for told in run.told]
    if options.only is None:
        with written_whole(options.out / "ablation.json") as file:
            json.dump(rows, file, indent=1)
        with written_whole(options.out / "ablation.md") as file:
            file.write(table(rows))
        print(table(rows))


def learn(run: Run, options: argparse.Namespace) -> None:
    config = TrainConfig(**RECIPE | VARIANTS[run.name], steps=options.steps, seed=run.seed)
    shape = WEIGHTS / "xseg-tiny" / "config.json"
    train(TrainOptions(str(shape), options.out / run.folder, config, device=options.device))


def measure(
    run: Run, told: str, annotations: Annotations, captions: Path, options: argparse.Namespace
) -> dict[str, object]:
    """Scores of one run with one kind of captions, as sums by take, from which intervals are drawn."""
    folder, row = (
        options.out / run.folder / f"predictions-{told}",
        {"variant": run.name, "seed": run.seed, "told": told},
    )
    for direction in Direction:
        predict(
            PredictOptions(
                options.out / "data", folder, direction, str(options.out / run.folder / "model"), split=SPLIT,
                captions=None if told == "none" else captions, shuffle_captions=0 if told == "shuffled" else None,
                device=options.device,
            )
        )  # fmt: skip
    evaluation = score(folder, annotations)
    for direction, scores in evaluation.scores.items():
        row[direction.value] = {**scores.to_json(), "takes": by_take(evaluation.samples[direction])}
    return row


def by_take(samples: list[ScoredSample]) -> dict[str, tuple[float, int]]:
    """Sum of IoU and number of visible objects of each take."""
    takes: dict[str, tuple[float, int]] = {}
    for sample in samples:
        if sample.visible:
            total, count = takes.get(sample.take_uid, (0.0, 0))
            takes[sample.take_uid] = (total + sample.iou, count + 1)
    return takes


def table(rows: list[dict[str, object]]) -> str:
    """Markdown: mean over seeds, with the 95% interval from drawing takes anew (the same takes in every seed)."""
    lines = ["| variant | captions | IoU ego2exo | IoU exo2ego | visibility ego2exo | visibility exo2ego |"]
    lines.append("|---|---|---|---|---|---|")
    for name, told in dict.fromkeys((row["variant"], row["told"]) for row in rows):
        own = [row for row in rows if (row["variant"], row["told"]) == (name, told)]
        cells = [interval([row[direction.value]["takes"] for row in own]) for direction in Direction]
        for direction in Direction:
            values = [row[direction.value]["visibility_balanced_accuracy"] for row in own]
            cells.append(f"{np.mean(values):.3f} ({', '.join(f'{value:.2f}' for value in values)})")
        lines.append(f"| {name} | {told} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def interval(seeds: list[dict[str, tuple[float, int]]]) -> str:
    sums = np.array([[sum(own[uid][part] for own in seeds) for part in (0, 1)] for uid in sorted(seeds[0])])  # (T, 2)
    drawn = resample(sums)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return f"{sums[:, 0].sum() / sums[:, 1].sum():.3f} ({low:.3f} - {high:.3f})"


if __name__ == "__main__":
    main()
