"""Region pooling against its definition, and the fusion's peculiarities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_rules import sample_regions

from egoexo_xseg.model.conditions import ConditionFusion, ObjectFusion, pool_regions


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 4))
def test_pooling_is_the_mean_of_the_released_samples_over_all_pixels(seed, rows, columns):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(1, rows * columns, 5, generator=generator)
    mask = torch.rand(12, 16, generator=generator) > 0.7
    mask[3, 4] = True
    points = mask.nonzero() / torch.tensor(mask.shape)
    expected = sample_regions(tokens[0], (rows, columns), [points])
    pooled = pool_regions(tokens, mask[None, None], (rows, columns))[0]
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-5)


def test_one_pixel_reads_the_released_place():
    tokens = torch.tensor([[[0.0], [1.0], [10.0], [11.0]]])  # 2 x 2 grid: value = 10 row + column
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., 2, 1] = True
    assert pool_regions(tokens, mask, (2, 2)).item() == pytest.approx(10 * 0.5 + 0.25)


def test_empty_mask_reads_the_whole_image():
    tokens = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(1, 2, 6, 6, dtype=torch.bool)
    masks[0, 1] = True
    pooled = pool_regions(tokens, masks, (3, 3))
    torch.testing.assert_close(pooled[0, 0], pooled[0, 1])


@pytest.fixture
def fusion() -> ConditionFusion:
    torch.manual_seed(0)
    return ConditionFusion(8)


def test_fusion_shifts_all_objects_alike(fusion):
    objects, caption, all_of = torch.randn(2, 3, 8), torch.randn(2, 1, 8), torch.ones(2, 3, dtype=torch.bool)
    fused = fusion(objects, caption, all_of, all_of)
    shift = fused - fusion.k * objects
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift))


def test_fusion_of_one_object_ignores_the_caption(fusion):
    objects, present = torch.randn(1, 1, 8), torch.ones(1, 1, dtype=torch.bool)
    one, other = (fusion(objects, torch.randn(1, 1, 8), present, present) for _ in range(2))
    assert torch.equal(one, other)


def test_fusion_reads_no_padding_and_ignores_order(fusion):
    objects, caption = torch.randn(1, 3, 8), torch.randn(1, 1, 8)
    both, two = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[True, True, False]])
    alone = fusion(objects[:, :2], caption, both, both)
    padded = fusion(objects, caption, two, two)
    torch.testing.assert_close(padded[:, :2], alone)
    turned = fusion(objects[:, [1, 0]], caption, both, both)
    torch.testing.assert_close(turned, alone[:, [1, 0]])


@pytest.fixture
def own_fusion() -> ObjectFusion:
    torch.manual_seed(0)
    return ObjectFusion(8)


def test_a_caption_reaches_its_own_object_only(own_fusion):
    objects, captions, all_of = torch.randn(1, 3, 8), torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool)
    before = own_fusion(objects, captions, all_of, all_of)
    captions[0, 1] += 1
    after = own_fusion(objects, captions, all_of, all_of)
    assert torch.equal(before[0, [0, 2]], after[0, [0, 2]])
    assert not torch.allclose(before[0, 1], after[0, 1])


def test_a_caption_reaches_its_object_when_it_is_alone(own_fusion):
    objects, one = torch.randn(1, 1, 8), torch.ones(1, 1, dtype=torch.bool)
    said, other = (own_fusion(objects, torch.randn(1, 1, 8), one, one) for _ in range(2))
    assert not torch.allclose(said, other)


def test_without_a_caption_nothing_of_the_text_is_heard(own_fusion):
    objects, one = torch.randn(1, 2, 8), torch.ones(1, 2, dtype=torch.bool)
    none = torch.zeros(1, 2, dtype=torch.bool)
    said, other = (own_fusion(objects, torch.randn(1, 2, 8), one, none) for _ in range(2))
    assert torch.equal(said, other)
    assert said.isfinite().all()
