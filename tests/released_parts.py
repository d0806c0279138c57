"""What the released model's goldens say about its single parts, for the tests of those parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

# In the released files, but read by nothing.
UNREAD = ("relative_position_index", "query_feat", "SEG_query_embed", "SEG_proj", "CLASS_proj")


class Kept(dict):
    """Tensors of a golden folder, of which a reduced one keeps only some: a test of the others is skipped."""

    def __missing__(self, name: str) -> Tensor:
        pytest.skip(f"this golden folder does not hold {name}")


class Tiny:
    """The tiny released model: its configuration, weights, and what each part made of what."""

    def __init__(self, golden: Path) -> None:
        self.folder = golden / "reference_tiny"
        if not self.folder.exists():
            pytest.skip("the golden folder has no reference_tiny")
        self.config: dict[str, Any] = json.loads((self.folder / "config.json").read_text("utf-8"))
        self.seeds = sorted(path.stem.removeprefix("meta_") for path in self.folder.glob("meta_*.json"))
        self.weights = load_file(self.folder / "weights.safetensors")

    @property
    def mask(self) -> dict[str, int]:
        return self.config["mask"]

    def widths(self) -> tuple[int, ...]:
        return tuple(self.config["swin"]["embed_dim"] * 2**stage for stage in range(4))

    def load(self, part: nn.Module, prefix: str) -> nn.Module:
        """Fill a part with the released weights below `prefix`, strictly."""
        part.load_state_dict(_below(self.weights, prefix))
        return part.eval()

    def outputs(self, seed: str) -> dict[str, Tensor]:
        return Kept(load_file(self.folder / f"outputs_{seed}.safetensors"))

    def image(self, seed: str, view: str) -> Tensor:
        """The network's input for a sample's `target` or `query` view."""
        inputs = Kept(load_file(self.folder / f"inputs_{seed}.safetensors"))
        pixels = inputs[f"sample0.{view}_image_padded_u8_hwc"]
        mean, std = torch.tensor(self.config["pixel_mean"]), torch.tensor(self.config["pixel_std"])
        return ((pixels - mean) / std).permute(2, 0, 1)[None]


def full_size_shapes(golden: Path, prefix: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes that the released full-size files hold below `prefix`."""
    path = golden / "reference_full_manifest.json"
    if not path.exists():
        pytest.skip("the golden folder has no reference_full_manifest.json")
    manifest = json.loads(path.read_text("utf-8"))
    return _below({name: tuple(shape) for name, (shape, _) in manifest.items()}, prefix)


def shapes(part: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def _below(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    below = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    unread = ("fuse_model", *UNREAD)
    return {name: value for name, value in below.items() if not set(name.split(".")) & set(unread)}
