"""The pixel decoder against the released goldens, transformers' own, and its two samplers against each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from released_parts import Tiny, full_size_shapes, relative_error, shapes
from torch import nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder

from egoexo_xseg.model import pixel_decoder
from egoexo_xseg.model.pixel_decoder import PixelDecoder, own_places, sample_by_gather, sample_by_grid

WIDTHS = (4, 6, 8, 10)
SMALL = {"hidden_dim": 32, "mask_dim": 16, "num_heads": 4, "num_layers": 2, "feedforward_dim": 24}
CPU = torch.device("cpu")


@pytest.fixture
def decoder() -> PixelDecoder:
    """Weights under which every point, level and norm matters."""
    torch.manual_seed(0)
    decoder = PixelDecoder(WIDTHS, **SMALL)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return decoder.eval()


def features(hw: tuple[int, int], batch: int = 2) -> tuple[torch.Tensor, ...]:
    """Maps of an image of size `hw`, as the tower gives them."""
    return tuple(
        torch.randn(batch, width, -(-hw[0] // stride), -(-hw[1] // stride))
        for width, stride in zip(WIDTHS, (4, 8, 16, 32), strict=True)
    )


@pytest.mark.parametrize("sampler", [sample_by_gather, sample_by_grid])
def test_released_maps(golden, monkeypatch, sampler):
    """Either sampler, put where the CPU's is taken from."""
    monkeypatch.setattr(pixel_decoder, "sample_by_gather", sampler)
    tiny = Tiny(golden)
    mask = tiny.mask
    decoder = PixelDecoder(
        in_channels=tiny.widths(),
        hidden_dim=mask["CONVS_DIM"],
        mask_dim=mask["MASK_DIM"],
        num_heads=mask["NHEADS"],
        num_layers=mask["TRANSFORMER_ENC_LAYERS"],
        feedforward_dim=mask["pixel_decoder_ffn"],
    )
    tiny.load(decoder, "pixel_decoder.")
    for seed in tiny.seeds:
        outputs = tiny.outputs(seed)
        with torch.no_grad():
            mask_features, memory = decoder(tuple(outputs[f"eval.swin.0.res{scale}"] for scale in range(2, 6)))
        assert relative_error(mask_features, outputs["eval.pixel_decoder.mask_features"]) < 1e-5
        for scale, level in enumerate(memory):
            assert relative_error(level, outputs[f"eval.pixel_decoder.multi_scale.{scale}"]) < 1e-5


def test_full_size_names_and_shapes(golden):
    with torch.device("meta"):
        decoder = PixelDecoder(
            in_channels=(128, 256, 512, 1024),
            hidden_dim=256,
            mask_dim=256,
            num_heads=8,
            num_layers=6,
            feedforward_dim=1024,
        )
    assert shapes(decoder) == full_size_shapes(golden, "pixel_decoder.")


def transformers_twin(decoder: PixelDecoder) -> Mask2FormerPixelDecoder:
    """transformers' pixel decoder with the same weights, its two FPN modules replaced by the released kind."""
    config = Mask2FormerConfig(
        feature_size=SMALL["hidden_dim"],
        mask_feature_size=SMALL["mask_dim"],
        hidden_dim=SMALL["hidden_dim"],
        encoder_feedforward_dim=SMALL["feedforward_dim"],
        encoder_layers=SMALL["num_layers"],
        num_attention_heads=SMALL["num_heads"],
        dropout=0.0,
    )
    twin = Mask2FormerPixelDecoder(config, feature_channels=list(WIDTHS)).eval()
    renames = {
        "input_proj.": "input_projections.",
        "transformer.": "",
        "norm1": "self_attn_layer_norm",
        "norm2": "final_layer_norm",
        "linear": "fc",
        "mask_features": "mask_projection",
    }
    weights = {}
    for name, tensor in decoder.state_dict().items():
        for ours, theirs in renames.items():
            name = name.replace(ours, theirs)
        weights[name] = tensor
    missing, unexpected = twin.load_state_dict(weights, strict=False)
    assert not missing and set(unexpected) == {"adapter_1.0.bias", "layer_1.0.bias"}
    twin.lateral_convolutions = [nn.Sequential(*decoder.adapter_1[:2], nn.ReLU())]
    twin.output_convolutions = [nn.Sequential(*decoder.layer_1[:2], nn.ReLU())]
    return twin


@pytest.mark.parametrize("hw", [(64, 64), (96, 160), (70, 41)])
def test_same_numbers_as_transformers(decoder, hw):
    maps = features(hw)
    with torch.no_grad():
        mask_features, memory = decoder(maps)
        expected = transformers_twin(decoder)(list(maps))
    assert relative_error(mask_features, expected.mask_features) < 1e-5
    for level, wanted in zip(memory, expected.multi_scale_features, strict=True):
        assert relative_error(level, wanted) < 1e-5


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3),
    batch=st.integers(1, 2),
    seed=st.integers(0, 2**31),
)
def test_samplers_agree_in_value_and_gradient(sizes, batch, seed):
    """In float64, inside the maps and outside."""
    generator = torch.Generator().manual_seed(seed)
    heads, length, points = 2, 3, 4
    total = sum(h * w for h, w in sizes)
    values = torch.randn(batch, total, heads, 3, generator=generator, dtype=torch.float64)
    places = torch.rand(batch, length, heads, len(sizes), points, 2, generator=generator, dtype=torch.float64) * 9 - 2
    weights = torch.rand(places.shape[:-1], generator=generator, dtype=torch.float64)
    answers = []
    for sampler in (sample_by_gather, sample_by_grid):
        inputs = [tensor.clone().requires_grad_() for tensor in (values, places, weights)]
        sampled = sampler(inputs[0], sizes, inputs[1], inputs[2])
        (sampled * torch.linspace(1, 2, sampled.shape[-1], dtype=torch.float64)).sum().backward()
        answers.append((sampled, *(tensor.grad for tensor in inputs)))
    for gathered, gridded in zip(*answers, strict=True):
        torch.testing.assert_close(gathered, gridded, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", [sample_by_gather, sample_by_grid])
def test_samples_by_hand(sampler):
    """One 2 x 3 map of 0..5: its pixels, between them, half and wholly outside; then weights and the second map."""
    values = torch.cat([torch.arange(6.0), torch.tensor([100.0])]).view(1, 7, 1, 1)
    where = [(0, 0), (2, 1), (0.5, 0.5), (-0.5, 0), (2.5, 1), (-1, 0), (7, 7)]
    places = torch.zeros(1, 7, 1, 2, 1, 2)
    places[0, :, 0, 0, 0] = torch.tensor(where)
    weights = torch.ones(1, 7, 1, 2, 1)
    weights[..., 1, :] = 0
    sampled = sampler(values, [(2, 3), (1, 1)], places, weights)
    assert sampled.flatten().tolist() == pytest.approx([0, 5, 2, 0, 2.5, 0, 0], abs=1e-5)
    sampled = sampler(values, [(2, 3), (1, 1)], places, 0.5 * torch.ones_like(weights))
    assert sampled.flatten().tolist() == pytest.approx([50, 52.5, 51, 50, 51.25, 50, 50], abs=1e-4)


def test_no_number_is_no_place_and_is_not_hidden():
    values, weights = torch.ones(2, 12, 2, 3), torch.ones(2, 4, 2, 2, 1)
    places = torch.zeros(2, 4, 2, 2, 1, 2)
    places[0, 1, 0, 0, 0, 0], places[1, 2, 1, 1, 0, 1], places[1, 3, 0] = torch.nan, torch.nan, torch.inf
    sampled = sample_by_gather(values, [(2, 5), (1, 2)], places, weights).unflatten(-1, (2, 3))
    broken = torch.zeros(2, 4, 2, dtype=torch.bool)
    broken[0, 1, 0] = broken[1, 2, 1] = True
    assert torch.equal(sampled.isnan().all(-1), broken)
    assert sampled[1, 3].tolist() == [[0] * 3, [2] * 3]


def test_a_place_keeps_its_relative_position_on_every_map():
    places = own_places(((2, 2), (4, 4)), torch.float64, CPU)
    assert places.shape == (20, 2, 2)
    assert places[1].tolist() == [[1, 0], [2.5, 0.5]]
    assert places[4 + 4].tolist() == [[-0.25, 0.25], [0, 1]]


def test_a_fresh_model_looks_around_itself():
    """Each head its own way, point p at p pixels, on every level alike, with equal weights."""
    attention = PixelDecoder(WIDTHS, **SMALL).transformer.encoder.layers[0].self_attn
    offsets = attention.sampling_offsets.bias.detach().view(4, 3, 4, 2)
    expected = torch.tensor([[1, 0], [0, 1], [-1, 0], [0, -1]])[:, None, None] * torch.arange(1, 5)[:, None]
    torch.testing.assert_close(offsets, expected.expand_as(offsets).float(), atol=1e-5, rtol=0)
    assert not attention.attention_weights.weight.any() and not attention.sampling_offsets.weight.any()


def test_gradient_reaches_every_parameter(decoder):
    mask_features, memory = decoder(features((64, 96), batch=1))
    (mask_features.square().sum() + sum(level.square().sum() for level in memory)).backward()
    assert not [name for name, parameter in decoder.named_parameters() if not parameter.grad.any()]


@pytest.mark.parametrize("sampler", [sample_by_gather, sample_by_grid])
def test_bfloat16_samples_at_exact_places(decoder, monkeypatch, sampler):
    maps = features((256, 64), batch=1)
    seen = []

    def watch(values, sizes, places, weights):
        seen.append((values.dtype, places.dtype, weights.dtype))
        return sampler(values, sizes, places, weights)

    monkeypatch.setattr(pixel_decoder, "sample_by_gather", watch)
    with torch.no_grad():
        exact, _ = decoder(maps)
        rough, memory = decoder.bfloat16()(tuple(level.bfloat16() for level in maps))
    assert seen[-1] == (torch.float32,) * 3
    assert {level.dtype for level in (rough, *memory)} == {torch.float32}
    assert relative_error(rough.float(), exact) < 0.1


def test_group_norms_have_32_groups(decoder):
    assert {module.num_groups for module in decoder.modules() if isinstance(module, nn.GroupNorm)} == {32}
