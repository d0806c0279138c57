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

from egoexo_xseg.model.swin import Block, Swin, position_index, shift_mask, split_windows, window_places

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


def test_places_of_shifted_windows():
    into, back = window_places((3, 4), 2, 1, torch.device("cpu"))  # a fourth row is padding
    assert into.tolist() == [5, 6, 9, 10, 7, 4, 11, 8, 12, 12, 1, 2, 12, 12, 3, 0]
    assert into[back].tolist() == list(range(12))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.booleans())
def test_windows_are_those_of_padding_and_rolling(height, width, window, shifted):
    shift = window // 2 if shifted else 0
    into, back = window_places((height, width), window, shift, torch.device("cpu"))
    x = torch.arange(1.0, height * width + 1).view(1, height, width, 1)
    padded = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    windows = split_windows(padded.roll((-shift, -shift), (1, 2)), window)
    assert torch.equal(F.pad(x.flatten(), (0, 1))[into].view_as(windows), windows)
    assert torch.equal(windows.flatten()[back].view_as(x), x)


def test_position_index_counts_offsets_from_the_lower_right():
    assert position_index(2, torch.device("cpu")).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_shift_mask_parts_what_the_shift_brought_together():
    masks = shift_mask((4, 4), 2, torch.device("cpu")) < 0
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
    shift_mask.cache_clear()
    window_places.cache_clear()
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
