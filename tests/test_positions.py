"""Sine positions against transformers' and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.models.mask2former.modeling_mask2former import Mask2FormerSinePositionEmbedding

from egoexo_xseg.model.positions import sine_positions

CPU = torch.device("cpu")


@pytest.mark.parametrize("hw", [(1, 1), (3, 5), (16, 16)])
def test_same_numbers_as_transformers(hw):
    theirs = Mask2FormerSinePositionEmbedding(num_position_features=8, normalize=True)
    expected = theirs(torch.Size([1, 16, *hw]), CPU, torch.float32)[0].flatten(1).T
    torch.testing.assert_close(sine_positions(hw, 16, CPU), expected, rtol=1e-6, atol=1e-6)


def test_first_of_two_rows():
    """Half way around the circle for y, all the way for x; the second wavelength is a hundred times longer."""
    row = sine_positions((2, 1), 8, CPU)[0]
    angles = [math.pi, math.pi, math.pi / 100, math.pi / 100, *(2 * angle for angle in (math.pi, math.pi))]
    waves = [wave(angle) for wave, angle in zip((math.sin, math.cos) * 3, angles, strict=True)]
    assert row[:6].tolist() == pytest.approx(waves, abs=1e-4)


def test_what_inference_left_behind_serves_training():
    sine_positions.cache_clear()
    with torch.inference_mode():
        kept = sine_positions((2, 3), 8, CPU)
    assert not kept.is_inference()
    assert sine_positions((2, 3), 8, CPU) is kept
