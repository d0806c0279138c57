"""From a pair to what the model takes: pixels, masks and captions; never a name."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from egoexo_xseg.data.images import frame_path, read_image
from egoexo_xseg.errors import XsegError
from egoexo_xseg.masks import Rle, rle_to_mask
from egoexo_xseg.model.inputs import Sample, View, fit_mask
from egoexo_xseg.model.prompts import PromptBuilder
from egoexo_xseg.records import Pair

KEPT = 16
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
            _keep(self._views, path, View.of(name, read_image(path), self.image_size, self.pad_value))
        return self._views[path]

    def _mask(self, rle: Rle) -> Bool[np.ndarray, "S S"]:
        if rle not in self._masks:
            _keep(self._masks, rle, fit_mask(rle_to_mask(rle), self.image_size))
        return self._masks[rle]


def _keep(shelf: OrderedDict, key: object, value: object) -> None:
    if len(shelf) >= KEPT:
        shelf.popitem(last=False)
    shelf[key] = value
