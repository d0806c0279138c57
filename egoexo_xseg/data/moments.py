"""What training learns from: one moment from two sides, of prepared takes or drawn from the sample world."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
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
from egoexo_xseg.files import written_whole
from egoexo_xseg.masks import Rle, rle_to_mask
from egoexo_xseg.records import Direction, Pair
from egoexo_xseg.world.draws import draw_pairs, world_seed
from egoexo_xseg.world.scene import make_scene


@dataclass(frozen=True, slots=True)
class Moment:
    """Both views at their own sizes, masks in the annotations'; the target masks of hidden objects are empty."""

    recording: str
    """Take, or drawn scene: within one, the same objects come back."""
    place: str
    """Recording and frame, or whatever tells moments apart; cameras of one place share it."""
    cameras: tuple[str, str]
    query_image: UInt8[np.ndarray, "H W 3"]
    target_image: UInt8[np.ndarray, "h w 3"]
    query_masks: Bool[np.ndarray, "K _ _"]
    target_masks: Bool[np.ndarray, "K _ _"]
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
        digest = hashlib.sha256()
        with written_whole(index, "wb") as file:
            for take in annotations:
                self.folders[take.take_uid] = take.folder
                for direction in directions:
                    for pair in iter_pairs(take, direction, captions):
                        line = _spell(pair, config.negatives)
                        if line:
                            self.offsets.append(file.tell())
                            file.write(line)
                            digest.update(line)
        self.identity = digest.hexdigest()
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
            _read_masks(row[side], image.shape[:2]) for side, image in zip(("query", "target"), images, strict=True)
        ]
        recording, captions = f"take {take_uid}", tuple(row["captions"])
        return Moment(recording, f"{recording}, frame {frame}", (query, target), *images, *masks, captions)


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


def _read_masks(values: Sequence[dict[str, object] | None], hw: tuple[int, int]) -> Bool[np.ndarray, "K _ _"]:
    """Of the annotations' size, as prediction has them: in that of the frames, small objects would be lost."""
    masks = [None if value is None else rle_to_mask(Rle.from_json(value)) for value in values]
    hw = next((mask.shape for mask in masks if mask is not None), hw)
    return np.stack([np.zeros(hw, bool) if mask is None else mask for mask in masks])


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A moment as it is kept: with the labels of its pictures, which share them; dense masks take far more room."""

    recording: str
    place: str
    cameras: tuple[str, str]
    images: tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "h w 3"]]
    labels: tuple[UInt8[np.ndarray, "H W"], UInt8[np.ndarray, "h w"]]
    seen: tuple[int, ...]
    captions: tuple[str | None, ...]

    def to_moment(self) -> Moment:
        masks = [
            np.stack([side == label for label in self.seen]) if self.seen else np.zeros((0, *side.shape), bool)
            for side in self.labels
        ]
        return Moment(self.recording, self.place, self.cameras, *self.images, *masks, self.captions)


class DrawnMoments:
    """Moments of made-up scenes, none of which `xseg sample` ever shows; numbers are turned into them as asked."""

    length = None
    EXO_CAMERAS = 2
    PER_SCENE = 3
    """Times of a scene that are drawn; another scene costs a third of a picture."""
    TURN = 50
    """Scenes that are drawn before they are shown again, in the same order."""

    def __init__(self, config: TrainConfig, side: int, processes: int, showings: int = 1) -> None:
        """`showings`: how often each picture is shown, where drawing is dear.

        With four, the loss on what was seen already fell far below that on new scenes.
        """
        self.config, self.side, self.processes, self.showings = config, side, processes, showings
        self.identity = f"drawn scenes, each picture shown {showings} times"
        self._drawn: OrderedDict[tuple[int, int], list[_Drawn]] = OrderedDict()

    def read(self, position: int) -> Moment:
        """All pairs of views of one time follow each other, within a process, in the directions that are asked for.

        They share pictures, which are encoded once a batch; then comes another scene with other objects.
        """
        own, process = divmod(position, self.processes)
        own, way = divmod(own, 2) if self.config.direction == "both" else (own, self.config.direction == "exo2ego")
        time, exo = divmod(own, self.EXO_CAMERAS)
        size = self.TURN * self.PER_SCENE
        turn, within = divmod(time, self.showings * size)
        number, scene = divmod(within % size, self.TURN)
        drawn = ((turn * self.processes + process) * self.TURN + scene, number)
        if drawn not in self._drawn:
            self._drawn[drawn] = self._draw(*drawn)
            if len(self._drawn) > (size if self.showings > 1 else 1):
                self._drawn.popitem(last=False)
        return self._drawn[drawn][2 * exo + int(way)].to_moment()

    def _draw(self, scene_number: int, number: int) -> list[_Drawn]:
        """Each exo camera's pair of views, in both directions."""
        rng = np.random.default_rng(world_seed("train", self.config.seed, scene_number, number))
        scene = make_scene(world_seed("train scene", self.config.seed, scene_number), exo_cameras=self.EXO_CAMERAS)
        moments = []
        for exo, pair in enumerate(draw_pairs(scene, float(rng.uniform(0, scene.duration)), self.side)):
            ego_view, exo_view = (pair.ego_image, pair.ego_instances), (pair.exo_image, pair.exo_instances)
            for cameras, (image, labels), (other, other_labels) in (
                (("ego", f"exo{exo}"), ego_view, exo_view),
                ((f"exo{exo}", "ego"), exo_view, ego_view),
            ):
                seen = tuple(int(label) for label in np.unique(labels) if label)
                captions = tuple(pair.things[label - 1].caption for label in seen)
                recording = f"drawn scene {scene_number}"
                place = f"{recording}, {number}"
                labelled = (labels, other_labels)
                moments.append(_Drawn(recording, place, cameras, (image, other), labelled, seen, captions))
        return moments


Moments = PreparedMoments | DrawnMoments
"""Training asks for position after position, of which each process takes every n-th; `length` of them see everything
once, where there is an end. The same `identity` has the same records in the same order.
"""
