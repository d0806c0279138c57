"""Swin against the released goldens, against transformers' own, and in its peculiarities."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from released_parts import Tiny, full_size_shapes, relative_error, shapes
from torch import nn
from transformers import SwinBackbone, SwinConfig

from egoexo_xseg.model.swin import Block, Swin, cut_windows, position_index, shift_masks, split_windows

TINY = {"embed_dim": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8), "window_size": 5}


def noisy(module: nn.Module) -> nn.Module:
    """Weights under which no bias or norm is neutral."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2 + (parameter.ndim == 1) * 0.5)
    return module.eval()


@pytest.fixture
def swin() -> Swin:
    torch.manual_seed(0)
    return noisy(Swin(**TINY))


def test_released_maps(golden):
    tiny = Tiny(golden)
    swin = tiny.load(Swin(**tiny.config["swin"]), "model.vision_tower.")
    for seed in tiny.seeds:
        outputs = tiny.outputs(seed)
        for order, view in enumerate(("target", "query")):
            with torch.no_grad():
                maps = swin(tiny.image(seed, view))
            for scale, level in enumerate(maps, 2):
                assert relative_error(level, outputs[f"eval.swin.{order}.res{scale}"]) < 1e-5


def test_full_size_names_and_shapes(golden):
    with torch.device("meta"):
        swin = Swin(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), window_size=12)
    assert shapes(swin) == full_size_shapes(golden, "model.vision_tower.")


def backbone_twin(swin: Swin) -> SwinBackbone:
    """transformers' Swin with the same weights."""
    config = SwinConfig(
        embed_dim=TINY["embed_dim"],
        depths=list(TINY["depths"]),
        num_heads=list(TINY["num_heads"]),
        window_size=TINY["window_size"],
        out_features=[f"stage{stage}" for stage in range(1, 5)],
    )
    twin = SwinBackbone(config).eval()
    weights = {}
    for name, tensor in swin.state_dict().items():
        name = re.sub(r"^norm(\d)", lambda m: f"hidden_states_norms.stage{int(m[1]) + 1}", name)
        name = name.replace("patch_embed.proj", "swin.embeddings.patch_embeddings.projection")
        name = name.replace("patch_embed.norm", "swin.embeddings.norm").replace("attn.proj", "attention.o_proj")
        name = re.sub(r"^layers", "swin.encoder.layers", name)
        name = re.sub(r"(?<=\d\.)norm1", "layernorm_before", name)
        name = re.sub(r"(?<=\d\.)norm2", "layernorm_after", name)
        name = name.replace("attn.relative", "attention.relative_position_bias.relative")
        if "attn.qkv" in name:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                weights[name.replace("attn.qkv", f"attention.{part}_proj")] = rows
        else:
            weights[name] = tensor
    unused = {"swin.layernorm.weight", "swin.layernorm.bias"}
    missing, unexpected = twin.load_state_dict(weights, strict=False)
    assert set(missing) <= unused and not unexpected
    return twin


@pytest.mark.parametrize("hw", [(160, 160), (64, 64), (100, 212), (90, 37), (4, 3)])
def test_same_numbers_as_transformers(swin, hw):
    """Squares that fit the windows, maps smaller than a window, odd maps, images that do not fit the patches."""
    images = torch.randn(2, 3, *hw)
    with torch.no_grad():
        maps = swin(images)
        expected = backbone_twin(swin)(images).feature_maps
    strides = (4, 8, 16, 32)
    assert [level.shape[2:] for level in maps] == [(-(-hw[0] // s), -(-hw[1] // s)) for s in strides]
    for found, wanted in zip(maps, expected, strict=True):
        assert relative_error(found, wanted) < 1e-5


def test_images_of_a_batch_do_not_meet(swin):
    images = torch.randn(3, 3, 60, 44)
    with torch.no_grad():
        together, alone = swin(images), swin(images[1:2])
    for many, one in zip(together, alone, strict=True):
        torch.testing.assert_close(many[1:2], one)


def test_windows_are_cut_row_by_row():
    x = torch.arange(2 * 6 * 4 * 3.0).view(2, 6, 4, 3)
    windows = split_windows(x, 2)
    assert windows.shape == (12, 4, 3)
    assert torch.equal(windows[1], x[0, :2, 2:].reshape(4, 3))


CPU = torch.device("cpu")


def test_places_of_shifted_windows():
    windows = cut_windows(1, (3, 4), 2, 1, CPU)  # a fourth row is padding
    assert windows.into.tolist() == [5, 6, 9, 10, 7, 4, 11, 8, 0, 0, 1, 2, 0, 0, 3, 0]
    assert windows.padding.tolist() == [8, 9, 12, 13]
    assert windows.into[windows.back].tolist() == list(range(12))
    assert windows.counts == (1, 1, 1, 1)


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.booleans())
def test_windows_are_those_of_padding_and_rolling(batch, height, width, window, shifted):
    shift = window // 2 if shifted else 0
    windows = cut_windows(batch, (height, width), window, shift, CPU)
    x = torch.arange(1.0, batch * height * width + 1).view(batch, height, width, 1)
    padded = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    expected = split_windows(padded.roll((-shift, -shift), (1, 2)), window)[..., 0]  # (B*M, A)
    found = x.flatten()[windows.into]
    found[windows.padding] = 0
    found = found.view_as(expected)
    assert torch.equal(found.flatten()[windows.back].view_as(x), x)
    assert sum(windows.counts) == len(expected)
    if not shift:
        assert torch.equal(found, expected)
    assert sorted(found.tolist()) == sorted(expected.tolist())


@given(st.integers(1, 9), st.integers(1, 9), st.integers(2, 4))
def test_windows_of_a_kind_share_a_mask(height, width, window):
    """Two places of a window may meet if they lie to each other in the map as they do in the window."""
    shift, rows, columns = window // 2, -(-height // window), -(-width // window)
    places = torch.cartesian_prod(torch.arange(rows * window), torch.arange(columns * window))
    places = places.view(1, rows * window, columns * window, 2).roll((-shift, -shift), (1, 2))
    cut = split_windows(places, window)  # (M, A, 2)
    own = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    neighbours = (cut[:, :, None] - cut[:, None] == own[:, None] - own[None]).all(-1)  # (M, A, A)
    kinds = [2 * (row == rows - 1) + (column == columns - 1) for row in range(rows) for column in range(columns)]
    assert torch.equal(shift_masks(window, CPU)[kinds] == 0, neighbours)
    counts = cut_windows(1, (height, width), window, shift, CPU).counts
    assert counts == tuple(kinds.count(kind) for kind in range(4))


def test_position_index_counts_offsets_from_the_lower_right():
    assert position_index(2, CPU).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_shift_mask_parts_what_the_shift_brought_together():
    masks = shift_masks(2, CPU) < 0
    assert masks.shape == (4, 4, 4)
    assert not masks[0].any()
    left_right = torch.tensor([False, True, False, True])
    assert torch.equal(masks[1], left_right[:, None] != left_right)
    assert torch.equal(masks[2], left_right.sort().values[:, None] != left_right.sort().values)
    assert torch.equal(masks[3], ~torch.eye(4, dtype=torch.bool))


def test_stochastic_depth_rises_from_nothing_to_the_given_rate():
    swin = Swin(**TINY, drop_path_rate=0.7)
    rates = [block.drop_path_rate for stage in swin.layers for block in stage.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])


def test_stochastic_depth_leaves_out_whole_images_in_training_only():
    torch.manual_seed(0)
    block = Block(4, 1, 2, shifted=False, drop_path_rate=0.25)
    x = torch.ones(4000, 1, 1, 1)
    factors = block.drop_path(x).flatten()
    assert factors.unique().tolist() == [0, pytest.approx(4 / 3)]
    assert factors.mean().item() == pytest.approx(1, abs=0.05)
    assert block.eval().drop_path(x) is x


def test_training_after_prediction_reaches_every_parameter():
    """Tables kept from inference mode must serve autograd too."""
    torch.manual_seed(0)
    swin = Swin(**TINY)
    position_index.cache_clear()
    shift_masks.cache_clear()
    cut_windows.cache_clear()
    images = torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        swin(images)
    sum(level.square().sum() for level in swin.train()(images)).backward()
    assert not [name for name, parameter in swin.named_parameters() if parameter.grad is None]


def test_bfloat16(swin):
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        exact = swin(images)
        rough = swin.bfloat16()(images.bfloat16())
    assert all(level.dtype == torch.float32 for level in rough)
    assert relative_error(rough[0].float(), exact[0]) < 0.1
