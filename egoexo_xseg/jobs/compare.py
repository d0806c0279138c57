"""Two methods on the same takes: what differs, how surely, and for which objects most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from egoexo_xseg.data.annotations import Annotations
from egoexo_xseg.errors import SubmissionError
from egoexo_xseg.jobs.evaluate import ScoredSample, by_take, evaluate, resample, scores_of_sums
from egoexo_xseg.records import Direction


@dataclass(frozen=True, slots=True)
class Difference:
    """A score of both methods; 95% of the second's lead lies within `low` and `high` when takes are drawn anew."""

    name: str
    first: float
    second: float
    low: float
    high: float

    @property
    def lead(self) -> float:
        return self.second - self.first

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class Change:
    """An object of a take: its mean IoU over all camera pairs and frames in which it is visible."""

    take_uid: str
    object_id: str
    samples: int
    first: float
    second: float

    @property
    def lead(self) -> float:
        return self.second - self.first


@dataclass(frozen=True)
class Comparison:
    """One direction; `changes` from the largest gain to the largest loss."""

    direction: Direction
    samples: int
    differences: list[Difference]
    changes: list[Change]


def compare(first: Path, second: Path, annotations: Annotations, workers: int | None = None) -> list[Comparison]:
    """Score two submissions and pair their samples; raises a SubmissionError where they share no direction."""
    evaluations = [evaluate([path], annotations, workers=workers) for path in (first, second)]
    shared = [direction for direction in evaluations[0].samples if direction in evaluations[1].samples]
    if not shared:
        raise SubmissionError("the two files share no direction", where=f"{first}, {second}")
    return [compare_samples(direction, *(each.samples[direction] for each in evaluations)) for direction in shared]


def compare_samples(direction: Direction, first: Sequence[ScoredSample], second: Sequence[ScoredSample]) -> Comparison:
    """Both methods' samples of the same annotations, in the same order."""
    sums = [by_take(samples) for samples in (first, second)]
    tables = [np.stack([own[uid] for uid in sums[0]]) for own in sums]  # 2 x (T, 8)
    totals = [scores_of_sums(table.sum(0, keepdims=True)) for table in tables]
    drawn = [scores_of_sums(resample(table)) for table in tables]  # the same takes for both
    differences = []
    for name, values in totals[0].items():
        pair = float(values[0]), float(totals[1][name][0])
        if not np.isnan(pair).any():
            low, high = np.nanquantile(drawn[1][name] - drawn[0][name], [0.025, 0.975])
            differences.append(Difference(name, *pair, float(low), float(high)))
    return Comparison(direction, len(first), differences, _changes(first, second))


def _changes(first: Sequence[ScoredSample], second: Sequence[ScoredSample]) -> list[Change]:
    ious: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for one, other in zip(first, second, strict=True):
        if one.iou is not None and other.iou is not None:
            ious.setdefault((one.take_uid, one.object_id), []).append((one.iou, other.iou))
    means: dict[tuple[str, str], Float[np.ndarray, "2"]] = {key: np.mean(pairs, 0) for key, pairs in ious.items()}
    changes = [Change(*key, len(ious[key]), float(mean[0]), float(mean[1])) for key, mean in means.items()]
    return sorted(changes, key=lambda change: -change.lead)
