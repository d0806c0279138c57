"""Images and masks as the model takes them: fitted into a square, and the exact way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from egoexo_xseg.errors import MediaError
from egoexo_xseg.masks import MAX_SIDE
from egoexo_xseg.model.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Fit:
    """How an image of `hw` pixels lies in a square of `side`: shrunk or grown to `fitted_hw`, at the top left."""

    hw: tuple[int, int]
    fitted_hw: tuple[int, int]
    side: int

    @classmethod
    def of(cls, hw: tuple[int, int], side: int) -> Fit:
        """The longest side becomes `side`; sizes are rounded by the reference's own two float steps."""
        if not all(1 <= length <= MAX_SIDE for length in hw):
            raise MediaError(f"an image's sides must be within 1 and {MAX_SIDE}, found {hw[0]}x{hw[1]}")
        scale = side / min(hw)
        height, width = hw[0] * scale, hw[1] * scale
        scale = side / max(height, width)
        return cls(hw, (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))), side)

    def on(self, cells: int) -> tuple[int, int]:
        """Height and width of the image on a map of `cells` x `cells` that covers the square."""
        stride = self.side / cells
        height, width = (max(1, round(length / stride)) for length in self.fitted_hw)
        return height, width


def fit_image(image: UInt8[np.ndarray, "H W 3"], side: int, pad_value: int) -> UInt8[np.ndarray, "S S 3"]:
    """Resize (PIL's bilinear, which smooths when it shrinks) and pad to the right and below."""
    height, width = Fit.of(image.shape[:2], side).fitted_hw
    square = np.full((side, side, 3), pad_value, np.uint8)
    square[:height, :width] = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    return square


def fit_mask(mask: Bool[np.ndarray, "H W"], side: int) -> Bool[np.ndarray, "S S"]:
    """The same for a mask, by the nearest pixel; an object too small to survive keeps the pixel at its centre."""
    fit = Fit.of(mask.shape, side)
    height, width = fit.fitted_hw
    square = np.zeros((side, side), bool)
    small = Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    square[:height, :width] = np.asarray(small, bool)
    if not square.any() and mask.any():
        rows, columns = np.nonzero(mask)
        square[int(rows.mean() * height / fit.hw[0]), int(columns.mean() * width / fit.hw[1])] = True
    return square


def unfit(logits: Float[Tensor, "K h w"], fit: Fit, hw: tuple[int, int]) -> Float[Tensor, "K H W"]:
    """Undo `fit` on masks of any resolution: up to the square, cut off the padding, then to the wanted size.

    Both steps are bilinear, in this order, as in the reference; sizes other than the image's own are allowed. Each mask
    is an image by itself, since torch is slow with several channels.
    """
    square = F.interpolate(logits[:, None].float(), (fit.side, fit.side), mode="bilinear", align_corners=False)
    height, width = fit.fitted_hw
    image = square[:, :, :height, :width]
    return F.interpolate(image, hw, mode="bilinear", align_corners=False)[:, 0]  # (K, H, W)


@dataclass(frozen=True, slots=True)
class View:
    """One fitted image; `name` says which (take, camera, frame), so that a batch encodes it once."""

    name: str
    image: UInt8[np.ndarray, "S S 3"]
    fit: Fit

    @classmethod
    def of(cls, name: str, image: UInt8[np.ndarray, "H W 3"], side: int, pad_value: int = 128) -> View:
        return cls(name, fit_image(image, side, pad_value), Fit.of(image.shape[:2], side))


@dataclass(frozen=True, slots=True)
class Sample:
    """One record ready for the model; masks are fitted. `target_masks` of invisible objects are empty."""

    query: View
    target: View
    query_masks: Bool[np.ndarray, "K S S"]
    prompt: Prompt
    target_masks: Bool[np.ndarray, "K S S"] | None = None
    recording: str = ""
    """Where the same objects come back; training asks."""


@dataclass(frozen=True)
class Batch:
    """Records for one forward pass: distinct images once, masks padded to the largest number of objects."""

    images: UInt8[Tensor, "I 3 S S"]
    query: tuple[int, ...]
    """Which image is each record's query view."""
    target: tuple[int, ...]
    query_masks: Bool[Tensor, "B K S S"]
    num_objects: tuple[int, ...]
    prompts: tuple[Prompt, ...]
    fits: tuple[Fit, ...]
    """How each target image lies in its square."""
    names: tuple[str, ...]
    """Which views each record is of, for messages."""
    target_masks: Bool[Tensor, "B K S S"] | None = None
    recordings: tuple[str, ...] = ()
    left_out: int = 0
    """Records that could not be read."""

    def distinct_targets(self) -> tuple[list[int], Int64[Tensor, " B"]]:
        """The images that are some record's target, and which of them is each record's."""
        targets = sorted(set(self.target))
        return targets, torch.tensor([targets.index(image) for image in self.target])

    def pin_memory(self) -> Batch:
        """The same where a GPU fetches it without waiting."""
        masks = None if self.target_masks is None else self.target_masks.pin_memory()
        return replace(
            self, images=self.images.pin_memory(), query_masks=self.query_masks.pin_memory(), target_masks=masks
        )

    def to(self, device: torch.device | str) -> Batch:
        masks = None if self.target_masks is None else self.target_masks.to(device, non_blocking=True)
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            query_masks=self.query_masks.to(device, non_blocking=True),
            target_masks=masks,
        )


def distinct_views(samples: Sequence[Sample]) -> dict[str, View]:
    """Views by name, in the order of a batch's images."""
    return {view.name: view for sample in samples for view in (sample.query, sample.target)}


def collate(samples: Sequence[Sample]) -> Batch:
    """Join records; views of the same name become one image."""
    views = distinct_views(samples)
    position = {name: index for index, name in enumerate(views)}
    images = np.stack([view.image for view in views.values()]).transpose(0, 3, 1, 2)  # (I, 3, S, S)
    targets = [sample.target_masks for sample in samples if sample.target_masks is not None]
    return Batch(
        images=torch.from_numpy(np.ascontiguousarray(images)),
        query=tuple(position[sample.query.name] for sample in samples),
        target=tuple(position[sample.target.name] for sample in samples),
        query_masks=_pad_masks([sample.query_masks for sample in samples]),
        num_objects=tuple(len(sample.query_masks) for sample in samples),
        prompts=tuple(sample.prompt for sample in samples),
        fits=tuple(sample.target.fit for sample in samples),
        names=tuple(f"{sample.query.name} and {sample.target.name}" for sample in samples),
        target_masks=_pad_masks(targets) if len(targets) == len(samples) else None,
        recordings=tuple(sample.recording for sample in samples),
    )


def _pad_masks(masks: Sequence[Bool[np.ndarray, "_ S S"]]) -> Bool[Tensor, "B K S S"]:
    side = masks[0].shape[-1]
    padded = np.zeros((len(masks), max(map(len, masks)), side, side), bool)
    for row, own in zip(padded, masks, strict=True):
        row[: len(own)] = own
    return torch.from_numpy(padded)
