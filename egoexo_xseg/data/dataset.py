"""From a pair, or a moment of training, to what the model takes: pixels, masks and captions; never a name."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped, UInt8

from egoexo_xseg.config import TrainConfig
from egoexo_xseg.data.images import frame_path, read_image
from egoexo_xseg.data.moments import Moment
from egoexo_xseg.errors import XsegError
from egoexo_xseg.masks import Rle, rle_to_mask
from egoexo_xseg.model.inputs import Sample, View, fit_mask
from egoexo_xseg.model.prompts import PromptBuilder
from egoexo_xseg.records import Pair

KEPT_VIEWS, KEPT_MASKS = 16, 64
"""Fitted frames and masks that are remembered: those of one moment in every camera of a take."""


class PairReader:
    """Reads the pairs of prepared takes; a frame or a mask that several pairs share is read once."""

    def __init__(self, prompts: PromptBuilder, image_size: int, pad_value: int) -> None:
        self.prompts, self.image_size, self.pad_value = prompts, image_size, pad_value
        self._views: OrderedDict[Path, View] = OrderedDict()
        self._masks: OrderedDict[Rle, Bool[np.ndarray, "S S"]] = OrderedDict()

    def read(self, pair: Pair, folder: Path) -> Sample:
        """The sample of a pair whose frames lie in `folder`; object ids stay behind.

        Targets are left out: prediction has none.
        """
        try:
            query = self._view(folder, pair.query_camera, pair.frame)
            target = self._view(folder, pair.target_camera, pair.frame)
        except XsegError as fault:
            raise type(fault)(fault.problem, where=f"{pair}: {fault.where}", remedy=fault.remedy) from None
        masks = np.stack([self._mask(entry.query_mask) for entry in pair.objects])  # (K, S, S)
        return Sample(query, target, masks, self.prompts.build([entry.caption for entry in pair.objects]))

    def _view(self, folder: Path, camera: str, frame: int) -> View:
        path = frame_path(folder, camera, frame)
        if path not in self._views:
            name = f"{folder.name}/{camera}/{frame}"
            view = View.of(name, read_image(path), self.image_size, self.pad_value)
            _keep(self._views, path, view, KEPT_VIEWS)
        return self._views[path]

    def _mask(self, rle: Rle) -> Bool[np.ndarray, "S S"]:
        """A mask of either view, fitted."""
        if rle not in self._masks:
            _keep(self._masks, rle, fit_mask(rle_to_mask(rle), self.image_size), KEPT_MASKS)
        return self._masks[rle]


def _keep(shelf: OrderedDict, key: object, value: object, most: int) -> None:
    if len(shelf) >= most:
        shelf.popitem(last=False)
    shelf[key] = value


@dataclass(frozen=True, slots=True)
class Window:
    """An upright part of an image, as shares of its height and width, so that any size of the image has it."""

    top: float
    left: float
    height: float
    width: float

    def cut(self, image: Shaped[np.ndarray, "H W *_"]) -> Shaped[np.ndarray, "h w *_"]:
        """Its pixels, of which there is at least one."""
        height, width = image.shape[:2]
        return image[_span(self.top, self.height, height), _span(self.left, self.width, width)]


def _span(start: float, length: float, pixels: int) -> slice:
    first = min(round(start * pixels), pixels - 1)
    return slice(first, max(first + 1, round((start + length) * pixels)))


WHOLE = Window(0.0, 0.0, 1.0, 1.0)


class SampleMaker:
    """Turns moments into the model's input, varied as training wants it."""

    def __init__(self, config: TrainConfig, prompts: PromptBuilder, side: int, pad_value: int, most: int) -> None:
        self.config, self.prompts, self.side, self.pad_value, self.most = config, prompts, side, pad_value, most

    def make(self, moment: Moment, rng: np.random.Generator, salt: int) -> Sample | None:
        """None where nothing can be asked. Objects stand in random order, or their number would give them away.

        Views are varied by `salt` and their name: records of one batch that share a view share its image.
        """
        names = [f"{moment.place}, {camera}" for camera in moment.cameras]
        moment = _crop(moment, *(self._window(name, salt) for name in names))
        rows = rng.permutation(len(moment))
        if not self.config.negatives:
            rows = rows[moment.target_masks[rows].any((1, 2))]
        if not len(rows):
            return None
        moment = moment.take(rows[: self.most].tolist())
        told = rng.random() < self.config.caption_share
        captions = [self._vary(moment.captions, row, rng) if told else None for row in range(len(moment))]
        mirrored = self.config.augment and bool(zlib.crc32(f"{salt} {moment.place}".encode()) & 1)
        query, target = (
            self._view(name, image, mirrored, salt)
            for name, image in zip(names, (moment.query_image, moment.target_image), strict=True)
        )
        masks = [
            np.stack([fit_mask(_mirror(mask, mirrored), self.side) for mask in own])
            for own in (moment.query_masks, moment.target_masks)
        ]
        return Sample(query, target, masks[0], self.prompts.build(captions), masks[1], moment.recording)

    def _window(self, name: str, salt: int) -> Window:
        """What is shown of a view: half of the time all of it, else any part that is not too small."""
        if self.config.crop == 1:
            return WHOLE
        rng = np.random.default_rng([salt, zlib.crc32(name.encode()), 1])
        if rng.random() < 0.5:
            return WHOLE
        height, width = rng.uniform(self.config.crop, 1, 2)
        return Window(float(rng.uniform(0, 1 - height)), float(rng.uniform(0, 1 - width)), float(height), float(width))

    def _view(self, name: str, image: UInt8[np.ndarray, "H W 3"], mirrored: bool, salt: int) -> View:
        if self.config.augment:
            rng = np.random.default_rng([salt, zlib.crc32(name.encode())])
            # Another exposure and white balance, as cameras differ.
            gain = rng.uniform(0.75, 1.3) * rng.uniform(0.93, 1.07, 3)
            image = np.clip(_mirror(image, mirrored) * gain, 0, 255).astype(np.uint8)
        return View.of(name, image, self.side, self.pad_value)

    def _vary(self, captions: tuple[str | None, ...], row: int, rng: np.random.Generator) -> str | None:
        """An object's caption, or now and then none, or that of another object of the view: captioners err."""
        luck = rng.random()
        if luck < self.config.caption_noise:
            return None
        others = captions[:row] + captions[row + 1 :]
        wrong = luck < 2 * self.config.caption_noise and others
        return others[int(rng.integers(len(others)))] if wrong else captions[row]


def _crop(moment: Moment, query: Window, target: Window) -> Moment:
    """The part of both views within the windows, and the objects that the query view still shows there.

    An object of which less than a tenth is left is as good as gone: nobody could tell what it is.
    """
    if query is target is WHOLE:
        return moment
    masks = []
    for own, window in ((moment.query_masks, query), (moment.target_masks, target)):
        left = window.cut(own.transpose(1, 2, 0)).transpose(2, 0, 1)  # (K, h, w)
        masks.append(left & (10 * left.sum((1, 2)) >= own.sum((1, 2)))[:, None, None])
    images = query.cut(moment.query_image), target.cut(moment.target_image)
    cropped = replace(
        moment, query_image=images[0], target_image=images[1], query_masks=masks[0], target_masks=masks[1]
    )
    return cropped.take(masks[0].any((1, 2)).nonzero()[0].tolist())


def _mirror(image: np.ndarray, mirrored: bool) -> np.ndarray:
    return np.ascontiguousarray(image[:, ::-1]) if mirrored else image
