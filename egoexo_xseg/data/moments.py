"""What training learns from: one moment from two sides, of prepared takes or drawn from the sample world."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from egoexo_xseg.config import TrainConfig
from egoexo_xseg.data.annotations import Annotations
from egoexo_xseg.data.captions import Captions
from egoexo_xseg.data.images import frame_path, read_image
from egoexo_xseg.data.pairs import iter_pairs
from egoexo_xseg.errors import AnnotationError
from egoexo_xseg.masks import Rle, resize_nearest, rle_to_mask
from egoexo_xseg.records import Direction, Pair
from egoexo_xseg.world.draws import draw_pair, world_seed
from egoexo_xseg.world.scene import make_scene


@dataclass(frozen=True, slots=True)
class Moment:
    """Both views at their own sizes; the target masks of hidden objects are empty."""

    place: str
    """Take and frame, or whatever tells moments apart; cameras of one place share it."""
    cameras: tuple[str, str]
    query_image: UInt8[np.ndarray, "H W 3"]
    target_image: UInt8[np.ndarray, "h w 3"]
    query_masks: Bool[np.ndarray, "K H W"]
    target_masks: Bool[np.ndarray, "K h w"]
    captions: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.query_masks)

    def __str__(self) -> str:
        return f"{self.place}, {self.cameras[0]} to {self.cameras[1]}"

    def take(self, rows: list[int]) -> Moment:
        """The same with these objects only, in this order."""
        captions = tuple(self.captions[row] for row in rows)
        return replace(
            self, query_masks=self.query_masks[rows], target_masks=self.target_masks[rows], captions=captions
        )


class PreparedMoments:
    """The pairs of prepared takes, every epoch in another order; an index in one file keeps memory small."""

    def __init__(self, annotations: Annotations, config: TrainConfig, index: Path, captions: Captions | None) -> None:
        self.config, self.folders = config, {}
        self.index, self.offsets = index, []
        directions = [each for each in Direction if config.direction in (each.value, "both")]
        partial = index.with_name(f".{index.name}.{os.getpid()}.partial")
        index.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            for take in annotations:
                self.folders[take.take_uid] = take.folder
                for direction in directions:
                    for pair in iter_pairs(take, direction, captions):
                        line = _spell(pair, config.negatives)
                        if line:
                            self.offsets.append(file.tell())
                            file.write(line)
        os.replace(partial, index)
        if not self.offsets:
            raise AnnotationError("no objects to learn from", where=annotations.source)
        chosen = np.random.default_rng([config.seed, 0]).permutation(len(self.offsets))
        self.chosen = np.sort(chosen[: max(1, round(config.record_share * len(chosen)))])
        self.length = len(self.chosen)
        self._order: tuple[int, Int64[np.ndarray, " N"]] = (-1, self.chosen)

    def read(self, position: int) -> Moment:
        epoch, within = divmod(position, len(self.chosen))
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.config.seed, 1, epoch]).permutation(self.chosen))
        with self.index.open("rb") as file:
            file.seek(self.offsets[self._order[1][within]])
            row = json.loads(file.readline())
        take_uid, query, target, frame = row["pair"]
        folder = self.folders[take_uid]
        if folder is None:
            raise AnnotationError("annotations without frames", where=f"take {take_uid}", remedy="xseg prepare")
        images = [read_image(frame_path(folder, camera, frame)) for camera in (query, target)]
        masks = [
            np.stack([_mask_at(rle, image.shape[:2]) for rle in row[side]])
            for side, image in zip(("query", "target"), images, strict=True)
        ]
        return Moment(f"take {take_uid}, frame {frame}", (query, target), *images, *masks, tuple(row["captions"]))


def _spell(pair: Pair, negatives: bool) -> bytes:
    """A pair as a line of the index; targets that nobody looked for teach nothing. Names of objects stay behind."""
    objects = [entry for entry in pair.objects if entry.annotated and (negatives or entry.visible)]
    if not objects:
        return b""
    row = {
        "pair": [pair.take_uid, pair.query_camera, pair.target_camera, pair.frame],
        "query": [entry.query_mask.to_json() for entry in objects],
        "target": [entry.target_mask.to_json() if entry.target_mask else None for entry in objects],
        "captions": [entry.caption for entry in objects],
    }
    return json.dumps(row).encode() + b"\n"


def _mask_at(value: dict[str, object] | None, hw: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Annotations are made at the video's original size, frames are smaller."""
    return np.zeros(hw, bool) if value is None else resize_nearest(rle_to_mask(Rle.from_json(value)), hw)


class DrawnMoments:
    """Moments of made-up scenes, none of which `xseg sample` ever shows; numbers are turned into them as asked."""

    length = None
    PER_SCENE = 4
    """Moments drawn of one scene; a new one costs as much as a picture."""
    TURN = 50
    """Scenes that are drawn before they are shown again, in the same order."""
    SHOWINGS = 4
    """How often each is shown: drawing costs a fifth of a step, and augmentation makes each showing another."""

    def __init__(self, config: TrainConfig, side: int, processes: int) -> None:
        self.config, self.side, self.processes = config, side, processes
        self._drawn: OrderedDict[tuple[int, int], tuple[Moment, Moment]] = OrderedDict()

    def read(self, position: int) -> Moment:
        """Both directions of a pair of views follow each other, within a process, where both are asked for.

        Different scenes follow each other, so that a batch holds different objects.
        """
        own, process = divmod(position, self.processes)
        both = self.config.direction == "both"
        views, way = divmod(own, 2) if both else (own, int(self.config.direction == Direction.EXO_EGO.value))
        turn, within = divmod(views, self.SHOWINGS * self.TURN * self.PER_SCENE)
        moment, scene = divmod(within % (self.TURN * self.PER_SCENE), self.TURN)
        drawn = ((turn * self.processes + process) * self.TURN + scene, moment)
        if drawn not in self._drawn:
            self._drawn[drawn] = self._draw(*drawn)
            if len(self._drawn) > 2 * self.TURN * self.PER_SCENE:
                self._drawn.popitem(last=False)
        return self._drawn[drawn][way]

    def _draw(self, scene_number: int, moment: int) -> tuple[Moment, Moment]:
        rng = np.random.default_rng(world_seed("train", self.config.seed, scene_number, moment))
        scene = make_scene(world_seed("train scene", self.config.seed, scene_number), exo_cameras=2)
        pair = draw_pair(scene, float(rng.uniform(0, scene.duration)), int(rng.integers(2)), self.side)
        views = [(pair.ego_image, pair.ego_instances), (pair.exo_image, pair.exo_instances)]
        moments = []
        for (image, labels), (other, other_labels) in (views, views[::-1]):
            seen = [int(label) for label in np.unique(labels) if label]
            masks = [
                np.stack([side == label for label in seen]) if seen else np.zeros((0, *side.shape), bool)
                for side in (labels, other_labels)
            ]
            captions = tuple(pair.things[label - 1].caption for label in seen)
            cameras = ("ego", "exo") if not moments else ("exo", "ego")
            moments.append(Moment(f"drawn scene {scene_number}, {moment}", cameras, image, other, *masks, captions))
        return moments[0], moments[1]


Moments = PreparedMoments | DrawnMoments
"""Training asks for position after position, of which each process takes every n-th; `length` of them see everything
once, where there is an end.
"""
