"""Stands for the captioner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8

PROMPT = "What is the object highlighted in green?"


def show_object(image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "h w 3"]:
    shown = image.copy()
    shown[mask] = np.rint(0.7 * image[mask] + 0.3 * np.array([0, 255, 0])).astype(np.uint8)
    return shown


class Captioner:
    revision: str

    @classmethod
    def load(cls, model: str | Path, *, device: str, dtype: torch.dtype) -> Captioner:
        raise NotImplementedError

    def describe(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[str]:
        raise NotImplementedError
