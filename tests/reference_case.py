"""Recorded tensors and records of the released code, one seed at a time, and how our run follows theirs."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_rules import sample_regions
from safetensors.torch import load_file

from egoexo_xseg.masks import Rle, rle_to_mask
from egoexo_xseg.model import mask_decoder as mask_decoder_file
from egoexo_xseg.model.configuration import CrossViewConfig, released_phi
from egoexo_xseg.model.inputs import Sample, View, fit_mask
from egoexo_xseg.model.prompts import PromptBuilder, byte_tokenizer

FOLDER = Path(os.environ.get("XSEG_GOLDEN") or Path(__file__).parent / "golden")
TINY = FOLDER / "reference_tiny"
SEEDS = sorted(path.stem.removeprefix("meta_") for path in TINY.glob("meta_*.json"))
TOLERANCE = 1e-4


def read_config(folder: Path) -> CrossViewConfig:
    values = json.loads((folder / "config.json").read_text())
    mask = values["mask"]
    return CrossViewConfig.from_dict(
        {
            **{name: values[name] for name in ("image_size", "pixel_mean", "pixel_std", "pad_value", "swin")},
            "projector": {"planes": values["projector_planes"]},
            "decoder": {
                "hidden_dim": mask["HIDDEN_DIM"],
                "mask_dim": mask["MASK_DIM"],
                "num_heads": mask["NHEADS"],
                "num_mask_tokens": mask["NUM_OBJECT_QUERIES"],
                "num_layers": mask["DEC_LAYERS"] - 1,
                "feedforward_dim": mask["DIM_FEEDFORWARD"],
                "pixel_layers": mask["TRANSFORMER_ENC_LAYERS"],
                "pixel_feedforward_dim": mask["pixel_decoder_ffn"],
            },
            "language": released_phi(**values["llm"]),
        }
    )


class Case:
    """One seed's tensors and records; what a reduced folder lacks is skipped."""

    def __init__(self, seed: str, config: CrossViewConfig) -> None:
        self.config = config
        self.meta = json.loads((TINY / f"meta_{seed}.json").read_text())
        files = (TINY / f"{kind}_{seed}.safetensors" for kind in ("inputs", "outputs"))
        self.inputs, self.outputs = (load_file(path) if path.is_file() else {} for path in files)
        self.compared = 0

    def masks(self, index: int, kind: str) -> list[np.ndarray]:
        """Raw masks of one record: "anns" of the target view, "first_frame_anns" of the query view."""
        coded = [entry["segmentation"] for entry in self.meta["records"][index][kind]]
        return [rle_to_mask(Rle.from_json(value)) for value in coded]

    def sample(self, index: int, tail: str) -> Sample:
        config = self.config
        if f"sample{index}.raw_query_image_u8_hwc" not in self.inputs:
            pytest.skip("no raw images in this folder")
        views = [
            View.of(
                view, self.inputs[f"sample{index}.raw_{view}_image_u8_hwc"].numpy(), config.image_size, config.pad_value
            )
            for view in ("query", "target")
        ]
        views = [View(f"{view.name} {index}", view.image, view.fit) for view in views]
        query, target = (
            np.stack([fit_mask(mask, config.image_size) for mask in self.masks(index, kind)])
            for kind in ("first_frame_anns", "anns")
        )
        captions = [entry["sent"] for entry in self.meta["records"][index]["instruction"]]
        return Sample(*views, query, PromptBuilder(byte_tokenizer(), tail).build(captions), target)

    def points(self, prefix: str) -> list[torch.Tensor]:
        names = sorted(name for name in self.outputs if name.startswith(f"{prefix}.region_points_yx."))
        if not names:
            pytest.skip(f"no {prefix} tensors in this folder")
        return [self.outputs[name] for name in names]

    def agrees(self, name: str, found: torch.Tensor) -> bool:
        return self._excess(name, found, 0.0) <= TOLERANCE

    def check(self, name: str, found: torch.Tensor, slack: torch.Tensor | float = 0.0) -> None:
        """Within 1e-4 of the largest value of the reference's tensor and `slack`, if the folder holds it."""
        if name in self.outputs:
            excess = self._excess(name, found, slack)
            assert excess <= TOLERANCE, f"{name}: {excess:.1e}"
            self.compared += 1

    def _excess(self, name: str, found: torch.Tensor, slack: torch.Tensor | float) -> torch.Tensor:
        expected = self.outputs[name].reshape(found.shape)
        return ((found - expected).abs() - slack).max() / expected.abs().max()


def sampled(grid, points, counts, features=None):
    """Stands in for `pool_regions`: the released random points, as they were drawn."""

    def pool(tokens, masks, _grid):
        pooled, start = tokens.new_zeros(len(tokens), masks.shape[1], tokens.shape[-1]), 0
        for b, count in enumerate(counts):
            pooled[b, :count] = sample_regions(tokens[b], grid, points[start : start + count])
            start += count
        if features is not None:
            features.append(pooled)
        return pooled

    return pool


def follow(case: Case, prefix: str, monkeypatch) -> None:
    """Let each decoder layer look where the reference looked, if they differ only by a logit next to zero.

    Rounding decides such a place, and one place more or less moves all that follows by more than rounding.
    """
    own, depths = mask_decoder_file.where_to_look, itertools.count()

    def look(mask_logits, hw):
        attended = own(mask_logits, hw)
        expected = case.outputs.get(f"{prefix}.predictor.layer{next(depths)}.pred_masks")
        if expected is None:
            return attended
        theirs = own(expected.reshape(mask_logits.shape), hw)
        logits = torch.nn.functional.interpolate(mask_logits, hw, mode="bilinear", align_corners=False).flatten(2)
        unsure = (logits.abs() < TOLERANCE * logits.abs().max()).any(-1)[:, None]  # (B, 1, N)
        assert ((attended == theirs).all(-1) | unsure).all()
        return theirs

    monkeypatch.setattr(mask_decoder_file, "where_to_look", look)
