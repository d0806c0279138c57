"""The model for one pair of images, without data sets, takes or files of answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64

from egoexo_xseg.data.visibility import VisibilityMap, checkpoint_map
from egoexo_xseg.errors import MaskError, MediaError, XsegError
from egoexo_xseg.jobs.predict import to_predictions
from egoexo_xseg.masks import mask_to_rle
from egoexo_xseg.model.answers import segment
from egoexo_xseg.model.checkpoint import checkpoint_hash, load_checkpoint
from egoexo_xseg.model.hub import default_model
from egoexo_xseg.model.inputs import Sample, View, collate, fit_mask
from egoexo_xseg.model.prompts import PromptBuilder
from egoexo_xseg.model.segmenter import CrossViewModel
from egoexo_xseg.model.store import fetch_model
from egoexo_xseg.records import Direction, Pair, PairObject


class Answer(NamedTuple):
    """One mask per query object, in their order, and how likely each object is visible in the target at all."""

    masks: Bool[np.ndarray, "K h w"]
    visibility: Float64[np.ndarray, " K"]


class CrossViewSegmenter:
    """Finds, in a target image, the objects that masks (and captions) point out in a query image."""

    def __init__(self, model: CrossViewModel, prompts: PromptBuilder, calibration: VisibilityMap | None = None) -> None:
        """`calibration` judges visibility; without one, the chosen proposal's score stands for it."""
        self.model, self.prompts, self.calibration = model, prompts, calibration

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        direction: str = "ego2exo",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> CrossViewSegmenter:
        """A checkpoint by its folder or its Hub id; by default the released one of the `direction`.

        `direction`, "ego2exo" or "exo2ego", also tells which calibration of the checkpoint is applied. By default on a
        GPU in float16 if there is one, else on the CPU in float32. Raises a CheckpointError for what cannot be loaded.
        """
        if direction not in tuple(Direction):
            raise XsegError(f"no direction {direction!r}", remedy="ego2exo or exo2ego")
        way = Direction(direction)
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = dtype or (torch.float16 if device.type == "cuda" else torch.float32)
        folder = fetch_model(model or default_model(way), dtype=dtype)
        segmenter, prompts = load_checkpoint(folder, device=device, dtype=dtype)
        return cls(segmenter, prompts, checkpoint_map(folder, checkpoint_hash(folder), way))

    def segment(
        self,
        query_image: np.ndarray,
        query_masks: np.ndarray,
        target_image: np.ndarray,
        captions: Sequence[str | None] | None = None,
    ) -> Answer:
        """Masks at the target image's size; they may overlap, and none is empty.

        Images are RGB, uint8 (height, width, 3), and `query_masks` boolean (objects, height, width) like the query's.
        `captions`: short noun phrases, one per object, such as "red cup"; None where there is none. Raises a MediaError
        or MaskError for images and masks that do not fit together.
        """
        masks = np.asarray(query_masks, bool)
        captions = [None] * len(masks) if captions is None else list(captions)
        _check(query_image, masks, target_image, captions)
        config, hw = self.model.config, (target_image.shape[0], target_image.shape[1])
        views = [
            View.of(name, image, config.image_size, config.pad_value)
            for name, image in (("query", query_image), ("target", target_image))
        ]
        found, visibility = [], []
        most = config.decoder.num_mask_tokens  # there is a proposal for each
        for part in (slice(start, start + most) for start in range(0, len(masks), most)):
            fitted = np.stack([fit_mask(mask, config.image_size) for mask in masks[part]])  # (k, S, S)
            sample = Sample(*views, fitted, self.prompts.build(captions[part]))
            answers = segment(self.model, collate([sample]).to(self.model.device), [hw])
            objects = tuple(PairObject("", mask_to_rle(mask)) for mask in masks[part])
            pair = Pair("", "query", "target", 0, hw, objects)
            found.append(answers[0].masks.numpy())
            visibility += [each.visibility for each in to_predictions([pair], answers, self.calibration)]
        return Answer(np.concatenate(found), np.array(visibility))


def _check(
    query_image: np.ndarray, masks: np.ndarray, target_image: np.ndarray, captions: Sequence[str | None]
) -> None:
    for name, image in (("query", query_image), ("target", target_image)):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            found = f"{image.dtype} of shape {image.shape}"
            raise MediaError(f"the {name} image must be RGB, uint8 (height, width, 3), found {found}")
    if masks.ndim != 3 or not len(masks) or masks.shape[1:] != query_image.shape[:2]:
        wanted = f"(objects, {query_image.shape[0]}, {query_image.shape[1]}) like the query image"
        raise MaskError(f"the query masks must have the shape {wanted}, found {masks.shape}")
    empty = np.flatnonzero(~masks.any((1, 2)))
    if empty.size:
        raise MaskError(f"query mask {empty[0]} (counted from 0) has no pixel")
    if len(captions) != len(masks):
        raise XsegError(f"{len(captions)} captions for {len(masks)} objects", remedy="Give one each, or None")
