"""The paper's ablation on the sample world: every variant with the same start, budget and scenes, several seeds.

    python benchmarks/ablation.py --out ablation --steps 1000

As in the paper, all variants begin with a model that segments: image tower, which stays as it is, pixel decoder and
mask decoder are those of weights/xseg-tiny. What tells objects apart (projector, language model, heads, fusion) is
drawn anew from the seed. All are trained on the same drawn scenes. Then takes that no training saw (those of
scores.py) are predicted with right, shuffled and no captions, into OUT/ablation-SEEDS.json and OUT/ablation-SEEDS.md.
A run that was stopped goes on where it was; with --seeds several processes can share the work, once the first
of them has made the takes and their captions, and a last call with all of them collects it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scores import SPLIT, WEIGHTS, make_takes, score

from egoexo_xseg.config import TrainConfig
from egoexo_xseg.data import intervals
from egoexo_xseg.data.annotations import Annotations, open_annotations
from egoexo_xseg.data.moments import DrawnMoments
from egoexo_xseg.data.scoring import ScoredSample
from egoexo_xseg.files import written_whole
from egoexo_xseg.jobs.caption import CaptionOptions, caption
from egoexo_xseg.jobs.predict import PredictOptions, predict
from egoexo_xseg.jobs.train import TrainOptions, train
from egoexo_xseg.model.checkpoint import load_checkpoint, new_checkpoint, save_checkpoint
from egoexo_xseg.records import Direction
from egoexo_xseg.world.paint import COLOURS, PATTERNS
from egoexo_xseg.world.things import SHAPES

SHIPPED = WEIGHTS / "xseg-tiny"
SEGMENTING = ("swin", "pixel_decoder", "mask_decoder")

RECIPE = {
    "stage": "2", "batch_size": 8, "lr": 3e-4, "final_lr": 0.03, "warmup": 0.02, "betas": (0.9, 0.98),
    "weight_decay": 0.02, "num_points": None, "image_size": 192, "keep_last": 1,
}  # fmt: skip

PLAIN = {"alignment": "none", "fusion": "released", "caption_share": 0.0}
TEXT = {"caption_share": 0.8, "caption_noise": 0.1}
CONTRAST = {"alignment": "contrast", "alignment_weight": 3.0}
OURS = PLAIN | TEXT | CONTRAST | {"fusion": "per_object"}
WITHOUT = {
    "no negatives": {"negatives": False},
    "one region map": {"region_levels": ()},
    "no augmentation": {"augment": False},
    "always all captions": {"caption_share": 1.0, "caption_noise": 0.0},
}
"""What training ours otherwise has: hidden targets, finer region maps, varied pictures, captions that lack or err."""

VARIANTS = {
    "base": PLAIN,
    "+ XObjAlign, released": PLAIN | {"alignment": "released"},
    "+ XObjAlign, contrastive": PLAIN | CONTRAST,
    "+ MCFuse, released": PLAIN | TEXT,
    "+ MCFuse, per object": PLAIN | TEXT | {"fusion": "per_object"},
    "+ both, released": PLAIN | TEXT | {"alignment": "released"},
    "+ both, ours": OURS,
    **{f"+ both, ours, {name}": OURS | changes for name, changes in WITHOUT.items()},
    "+ both, ours, cut views": OURS | {"crop": 0.5},
}
"""Without captions in training there is nothing to fuse: the base and the alignments alone are asked without them."""

FUSING = ("+ MCFuse, released", "+ MCFuse, per object", "+ both, ours", "+ both, ours, one region map")
PAIRS = [
    *(
        ((name, "right" if own["caption_share"] else "none"), ("base", "none"))
        for name, own in VARIANTS.items()
        if own != PLAIN
    ),
    *(((name, "right"), (name, told)) for name in FUSING for told in ("none", "shuffled")),
    *((("+ both, ours", told), (f"+ both, ours, {name}", told)) for name in WITHOUT for told in ("none", "right")),
    *((("+ both, ours, cut views", told), ("+ both, ours", told)) for told in ("none", "right")),
]
"""What is compared with what."""


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
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--takes", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    data, captions = make_takes(options.out, 1001, options.takes), options.out / "captions.jsonl"
    caption(CaptionOptions(data, captions, str(WEIGHTS / "captioner-tiny"), split=SPLIT, device=options.device))
    annotations = open_annotations(data, split=SPLIT)
    DrawnMoments._draw = remembered(DrawnMoments._draw)
    rows = []
    for run in (Run(name, int(seed)) for seed in options.seeds.split(",") for name in VARIANTS):
        learn(run, options)
        rows += [measure(run, told, annotations, captions, options) for told in run.told]
    with written_whole(options.out / f"ablation-{options.seeds}.json") as file:
        json.dump(rows, file, indent=1)
    with written_whole(options.out / f"ablation-{options.seeds}.md") as file:
        file.write(f"{table(rows)}\n{differences(rows)}")
    print(f"{table(rows)}\n{differences(rows)}")


Draw = Callable[[DrawnMoments, int, int], list]


def remembered(draw: Draw) -> Draw:
    """The variants of a seed learn from the same scenes, which are drawn once."""

    @lru_cache(maxsize=2000)
    def drawn(seed: int, side: int, scene: int, number: int) -> list:
        return draw(DrawnMoments(TrainConfig(seed=seed), side, processes=1), scene, number)

    return lambda self, scene, number: drawn(self.config.seed, self.side, scene, number)


def learn(run: Run, options: argparse.Namespace) -> None:
    config = TrainConfig(**RECIPE | VARIANTS[run.name], steps=options.steps, seed=run.seed)
    train(TrainOptions(str(start(run.seed, options.out)), options.out / run.folder, config, device=options.device))


def start(seed: int, out: Path) -> Path:
    """The shipped parts that segment, with everything else untrained."""
    folder = out / f"start-{seed}"
    if not folder.exists():
        shipped, prompts = load_checkpoint(SHIPPED)
        words = [f" {word}" for word in (*COLOURS, *PATTERNS.values(), *SHAPES)]
        new_checkpoint(out / f"untrained-{seed}", shipped.config, seed, words)
        untrained, _ = load_checkpoint(out / f"untrained-{seed}")
        for part in SEGMENTING:
            untrained.get_submodule(part).load_state_dict(shipped.get_submodule(part).state_dict())
        untrained.mask_tokens.data.copy_(shipped.mask_tokens)
        save_checkpoint(untrained, prompts, folder)
    return folder


def measure(
    run: Run, told: str, annotations: Annotations, captions: Path, options: argparse.Namespace
) -> dict[str, object]:
    """Scores of one run with one kind of captions, as sums by take, from which intervals are drawn."""
    folder = options.out / run.folder / f"predictions-{told}"
    row: dict[str, object] = {"variant": run.name, "seed": run.seed, "told": told}
    predict(
        PredictOptions(
            options.out / "data", folder, None, str(options.out / run.folder / "model"), split=SPLIT,
            captions=None if told == "none" else captions, shuffle_captions=0 if told == "shuffled" else None,
            device=options.device,
        )
    )  # fmt: skip
    evaluation = score(folder, annotations)
    for direction, scores in evaluation.scores.items():
        row[direction.value] = {**scores.to_json(), "takes": by_take(evaluation.samples[direction])}
    return row


Takes = dict[str, tuple[float, int]]
"""Sum of IoU and number of visible objects of each take."""


def by_take(samples: list[ScoredSample]) -> Takes:
    takes: Takes = {}
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
        cells = [spell_interval([row[direction.value]["takes"] for row in own]) for direction in Direction]
        for direction in Direction:
            values = [row[direction.value]["visibility_balanced_accuracy"] for row in own]
            cells.append(f"{np.mean(values):.3f} ({', '.join(f'{value:.2f}' for value in values)})")
        lines.append(f"| {name} | {told} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spell_interval(seeds: list[Takes]) -> str:
    totals = intervals.total_and_draws(sums(seeds))
    value, low, high = intervals.interval(totals[:, 0] / totals[:, 1])
    return f"{value:.3f} ({low:.3f} - {high:.3f})"


def differences(rows: list[dict[str, object]]) -> str:
    """Markdown: what each part changes, mean over seeds, paired by take."""
    lines = ["| | less | IoU ego2exo | IoU exo2ego |", "|---|---|---|---|"]
    for one, other in PAIRS:
        both = [[row for row in rows if (row["variant"], row["told"]) == each] for each in (one, other)]
        cells = [
            spell_difference(*([row[direction.value]["takes"] for row in own] for own in both))
            for direction in Direction
        ]
        lines.append(f"| {one[0]} ({one[1]}) | {other[0]} ({other[1]}) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spell_difference(seeds: list[Takes], others: list[Takes]) -> str:
    totals = intervals.total_and_draws(np.concatenate([sums(seeds), sums(others)], 1))
    value, low, high = intervals.interval(totals[:, 0] / totals[:, 1] - totals[:, 2] / totals[:, 3])
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def sums(seeds: list[Takes]) -> Float[np.ndarray, "T 2"]:
    """Of IoU and of visible objects over the seeds, take by take."""
    return np.array([[sum(own[uid][part] for own in seeds) for part in (0, 1)] for uid in sorted(seeds[0])])


if __name__ == "__main__":
    main()
