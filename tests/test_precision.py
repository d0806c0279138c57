"""Half precision for products only: torch's own layers in float32, and under autocast whatever torch decides."""

from __future__ import annotations

import pytest
import torch
from released_parts import relative_error
from torch import nn
from transformers import PhiModel

from egoexo_xseg.model import precision
from egoexo_xseg.model.configuration import released_phi
from egoexo_xseg.model.precision import ACTIVATIONS, Conv2d, GroupNorm, LayerNorm, Linear, full
from egoexo_xseg.model.segmenter import use_our_layers

PHI = released_phi(hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=4, vocab_size=10)
LAYERS = [
    (Linear, nn.Linear, (8, 6), (2, 3, 8)),
    (Conv2d, nn.Conv2d, (8, 6, 3), (2, 8, 5, 4)),
    (LayerNorm, nn.LayerNorm, (8,), (2, 3, 8)),
    (GroupNorm, nn.GroupNorm, (4, 8), (2, 8, 5, 4)),
]


def twins(ours: type[nn.Module], theirs: type[nn.Module], given: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    """With the same weights, which bfloat16 can tell."""
    torch.manual_seed(0)
    own, other = ours(*given), theirs(*given)
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.copy_(torch.randn(parameter.shape).bfloat16())
    other.load_state_dict(own.state_dict())
    return own, other


@pytest.mark.parametrize(("ours", "theirs", "given", "shape"), LAYERS)
def test_torchs_own_in_float32(ours, theirs, given, shape):
    own, other = twins(ours, theirs, given)
    x = torch.randn(shape)
    assert torch.equal(own(x), other(x))


@torch.no_grad()
@pytest.mark.parametrize(("ours", "theirs", "given", "shape"), LAYERS)
def test_half_precision_multiplies_and_norms_stay_exact(ours, theirs, given, shape):
    own, exact = twins(ours, theirs, given)
    x = torch.randn(shape)
    found = own.bfloat16()(x)
    if "Norm" in ours.__name__:
        torch.testing.assert_close(found, exact(x))
    else:
        assert found.dtype == torch.bfloat16
        assert relative_error(found.float(), exact(x.bfloat16().float())) < 2**-7


def test_autocast_is_left_to_torch():
    x = torch.randn(2, 8, dtype=torch.bfloat16)
    assert full(x).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert full(x) is x
        assert Linear(8, 6)(torch.randn(2, 8)).dtype == torch.bfloat16


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(64,), (7, 64), (3, 5, 64), (0, 64), (2, 0, 64)])
def test_products_of_a_prediction_are_torchs(activation, shape):
    layer = Linear(64, 32, activation=activation)
    x = torch.randn(shape)
    expected = ACTIVATIONS[activation](nn.functional.linear(x, layer.weight, layer.bias))
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), expected)
    slow = layer(x.requires_grad_())
    assert torch.equal(slow, expected) and slow.requires_grad


@torch.inference_mode()
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_no_number_stays_none(activation):
    layer = Linear(4, 16, activation=activation)
    layer.bias.fill_(float("nan"))
    assert layer(torch.zeros(5, 4)).isnan().all()


@torch.inference_mode()
@pytest.mark.skipif(torch.float32 not in precision.onednn(), reason="torch was built without oneDNN")
def test_prediction_on_a_cpu_multiplies_by_onednn():
    x, layer = torch.randn(2, 8), Linear(8, 6)
    assert precision.fuses(x, layer.weight)
    assert not precision.fuses(x.half(), layer.weight.half())
    with torch.enable_grad():
        assert not precision.fuses(x, layer.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not precision.fuses(x, layer.weight)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_language_model_adds_in_float32(dtype):
    torch.manual_seed(0)
    theirs = PhiModel(PHI).eval().to(dtype).float()  # numbers that the type holds
    ours = use_our_layers(PhiModel(PHI).eval())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 9, 64).to(dtype).float()
    exact = theirs(inputs_embeds=x).last_hidden_state
    torch.testing.assert_close(ours(inputs_embeds=x).last_hidden_state, exact)
    found = ours.to(dtype)(inputs_embeds=x).last_hidden_state
    rough = theirs.to(dtype)(inputs_embeds=x.to(dtype)).last_hidden_state.float()
    assert found.dtype == torch.float32
    assert (found - exact).square().mean() < 0.5 * (rough - exact).square().mean()
