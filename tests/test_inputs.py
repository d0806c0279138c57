"""Fitting images into the model's square, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from egoexo_xseg.errors import MediaError
from egoexo_xseg.model.inputs import Fit, Sample, View, collate, fit_image, fit_mask, unfit
from egoexo_xseg.model.prompts import PromptBuilder, byte_tokenizer


@pytest.mark.parametrize(
    ("hw", "fitted"),
    [
        ((704, 704), (1024, 1024)),
        ((540, 960), (576, 1024)),
        ((448, 796), (576, 1024)),
        ((796, 448), (1024, 576)),
        ((1, 16384), (1, 1024)),
    ],
)
def test_longest_side_fills_the_square(hw, fitted):
    assert Fit.of(hw, 1024).fitted_hw == fitted


def test_impossible_sizes_are_refused():
    with pytest.raises(MediaError, match=r"^an image's sides must be within 1 and 16384, found 0x5$"):
        Fit.of((0, 5), 64)


def test_padding_is_grey_for_images_and_empty_for_masks():
    image, mask = np.zeros((2, 4, 3), np.uint8), np.ones((2, 4), bool)
    square, fitted = fit_image(image, 4, 128), fit_mask(mask, 4)
    assert (square[:2] == 0).all() and (square[2:] == 128).all()
    assert fitted.tolist() == [[True] * 4] * 2 + [[False] * 4] * 2


def test_masks_take_the_nearest_pixel():
    mask = np.array([[1, 0], [0, 0]], bool)
    assert fit_mask(mask, 4).astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_a_small_object_survives_shrinking():
    mask = np.zeros((64, 64), bool)
    mask[33, 49] = True
    assert np.argwhere(fit_mask(mask, 8)).tolist() == [[4, 6]]
    assert not fit_mask(np.zeros((64, 64), bool), 8).any()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([8, 16, 32]), st.data())
def test_unfit_undoes_fit(height, width, side, data):
    """A vertical edge comes back where it was, to the pixel that the shrunk image could still tell."""
    edge = data.draw(st.integers(0, width))
    mask = np.zeros((height, width), bool)
    mask[:, :edge] = True
    fit = Fit.of((height, width), side)
    fitted = torch.from_numpy(fit_mask(mask, side)).float() - 0.5
    back = (unfit(fitted[None], fit, (height, width))[0] > 0).numpy()
    assert back.shape == mask.shape
    tolerance = max(1, width / fit.fitted_hw[1])
    assert np.abs(back.sum(1) - edge).max() <= tolerance


def test_unfit_leaves_an_unscaled_image_alone():
    logits = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    square = torch.full((2, 8, 8), -9.0)
    square[:, :6] = logits
    assert torch.allclose(unfit(square, Fit.of((6, 8), 8), (6, 8)), logits)


def make_sample(query: str, target: str, num_objects: int) -> Sample:
    views = [View.of(name, np.full((4, 8, 3), len(name), np.uint8), 8) for name in (query, target)]
    prompt = PromptBuilder(byte_tokenizer()).build([None] * num_objects)
    return Sample(*views, np.ones((num_objects, 8, 8), bool), prompt)


def test_collate_keeps_each_distinct_image_once():
    batch = collate([make_sample("ego", "exo01", 2), make_sample("exo01", "ego", 1), make_sample("ego", "exo0002", 3)])
    assert batch.images.shape == (3, 3, 8, 8)
    assert batch.images[:, 0, 0, 0].tolist() == [3, 5, 7]
    assert (batch.query, batch.target) == ((0, 1, 0), (1, 0, 2))
    assert batch.num_objects == (2, 1, 3)
    assert batch.query_masks.flatten(2).any(2).tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]
    assert batch.target_masks is None
    assert batch.fits[0] == Fit((4, 8), (4, 8), 8)
