"""A scene as annotated recordings: masks at the release's sizes, and how hard they are."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, fields

import numpy as np
from jaxtyping import Bool, Int64

from egoexo_xseg.masks import Rle, runs_to_rle
from egoexo_xseg.records import is_ego
from egoexo_xseg.world.camera import Camera
from egoexo_xseg.world.draws import MIN_SHARE
from egoexo_xseg.world.render import Moment, object_masks

FPS = 30

HARD_ABSENT, HARD_ALIKE, HARD_AREA = 0.15, 0.2, (0.002, 0.01)
"""From where on a recording means something: shares of absent queries, of objects with a look-alike, of the image."""


@dataclass(frozen=True, slots=True)
class Cast:
    """A mask, and the share of the image that it covers."""

    rle: Rle
    share: float


def cast_masks(moment: Moment, camera: Camera, hw: tuple[int, int]) -> dict[int, Cast]:
    """Masks of the query objects by label, cast at half of the size `hw` and doubled; slivers are left out."""
    half = (hw[0] // 2, hw[1] // 2)
    masks = {}
    for label, corner, mask in object_masks(moment, camera, half):
        share = float(np.count_nonzero(mask)) / (half[0] * half[1])
        if share >= MIN_SHARE:
            runs = crop_to_runs(mask.repeat(2, 0).repeat(2, 1), (2 * corner[0], 2 * corner[1]), hw)
            masks[label] = Cast(runs_to_rle(runs, hw), share)
    return masks


def crop_to_runs(
    crop: Bool[np.ndarray, "h w"], corner: tuple[int, int], hw: tuple[int, int]
) -> Int64[np.ndarray, " R"]:
    """Run lengths of a full-size mask that is empty but for a crop whose upper left pixel is at `corner`."""
    height, width = hw
    padded = np.zeros((crop.shape[1], crop.shape[0] + 2), np.int8)
    padded[:, 1:-1] = crop.T
    change = np.diff(padded, axis=1)  # (w, h + 1): 1 where a run begins, -1 after its end
    edges = []
    for sign in (1, -1):
        columns, rows = np.nonzero(change == sign)
        edges.append((columns + corner[1]) * height + rows + corner[0])
    starts, ends = edges
    joined = np.flatnonzero(starts[1:] == ends[:-1])  # a run to the lower edge goes on at the top of the next column
    starts, ends = np.delete(starts, joined + 1), np.delete(ends, joined)
    runs = np.diff(np.concatenate([[0], np.stack([starts, ends], 1).ravel(), [height * width]]))
    return (runs[:-1] if runs[-1] == 0 else runs).astype(np.int64)


@dataclass
class SampleFigures:
    """How hard a split is: shares of scenes, masks and queries, counted as they were written.

    A query is an object with a mask in the query view, for each camera of the other side whose annotator looked at
    that frame; it is absent where that camera has no mask. Keys of `queries` and `absent` are directions.
    """

    takes: int = 0
    objects: int = 0
    look_alikes: int = 0
    exo_cameras: int = 0
    frames: int = 0
    masks: int = 0
    unseen_by_ego: int = 0
    unseen_by_exo: int = 0
    queries: dict[str, int] = field(default_factory=lambda: {"ego2exo": 0, "exo2ego": 0})
    absent: dict[str, int] = field(default_factory=lambda: {"ego2exo": 0, "exo2ego": 0})
    areas: dict[str, list[float]] = field(default_factory=lambda: {"ego": [], "exo": []})

    def count(self, track: dict[str, dict[int, Cast]], looked: dict[str, list[int]]) -> None:
        """Add one object's masks and queries; `looked` are the frames that each camera's annotator saw."""
        for camera, frames in looked.items():
            shares = [track[camera][frame].share for frame in frames if frame in track[camera]]
            self.masks += len(shares)
            self.areas["ego" if is_ego(camera) else "exo"] += shares
        egos, exos = ([camera for camera in looked if is_ego(camera) is side] for side in (True, False))
        for ego, exo in itertools.product(egos, exos):
            for direction, query, target in (("ego2exo", ego, exo), ("exo2ego", exo, ego)):
                asked = [frame for frame in looked[query] if frame in track[query] and frame in looked[target]]
                self.queries[direction] += len(asked)
                self.absent[direction] += sum(frame not in track[target] for frame in asked)

    def add(self, other: SampleFigures) -> None:
        """Add another take's figures."""
        for entry in fields(self):
            if entry.type == "int":
                setattr(self, entry.name, getattr(self, entry.name) + getattr(other, entry.name))
        for direction in self.queries:
            self.queries[direction] += other.queries[direction]
            self.absent[direction] += other.absent[direction]
        for side, areas in self.areas.items():
            areas += other.areas[side]

    @property
    def pairs(self) -> int:
        """Queries of both directions."""
        return sum(self.queries.values())

    @property
    def look_alike_share(self) -> float:
        return self.look_alikes / max(self.objects, 1)

    def absent_share(self, direction: str) -> float:
        return self.absent[direction] / max(self.queries[direction], 1)

    def median_area(self, side: str) -> float:
        """Share of the image that the median mask of "ego" or "exo" covers."""
        return float(np.median(self.areas[side])) if self.areas[side] else 0.0

    @property
    def is_hard(self) -> bool:
        """Whether visibility, look-alikes and small objects all play their part."""
        absent = min(self.absent_share(direction) for direction in self.queries)
        small = HARD_AREA[0] <= self.median_area("exo") <= HARD_AREA[1]
        return small and absent >= HARD_ABSENT and self.look_alike_share >= HARD_ALIKE

    def rows(self) -> list[tuple[str, object]]:
        return [
            ("takes", self.takes),
            ("exo cameras", self.exo_cameras),
            ("annotated frames", self.frames),
            ("objects", self.objects),
            ("objects with a look-alike", f"{self.look_alike_share:.0%}"),
            ("objects never seen by ego", self.unseen_by_ego),
            ("objects never seen by exo", self.unseen_by_exo),
            ("masks", self.masks),
            ("median area, exo", f"{self.median_area('exo'):.2%} of the image"),
            ("median area, ego", f"{self.median_area('ego'):.2%} of the image"),
            ("queries", self.pairs),
            ("absent or hidden, ego2exo", f"{self.absent_share('ego2exo'):.0%} of {self.queries['ego2exo']}"),
            ("absent or hidden, exo2ego", f"{self.absent_share('exo2ego'):.0%} of {self.queries['exo2ego']}"),
        ]
