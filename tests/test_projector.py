"""The projector against the released goldens and its grid."""

from __future__ import annotations

import pytest
import torch
from released_parts import Tiny, full_size_shapes, relative_error, shapes

from egoexo_xseg.model.projector import Projector


def test_released_tokens(golden):
    tiny = Tiny(golden)
    projector = tiny.load(
        Projector(tiny.widths()[-1], tiny.config["projector_planes"], tiny.config["llm"]["hidden_size"]),
        "model.mm_projector.",
    )
    for seed in tiny.seeds:
        outputs = tiny.outputs(seed)
        for order in range(2):
            with torch.no_grad():
                tokens = projector(outputs[f"eval.swin.{order}.res5"])
            assert relative_error(tokens, outputs[f"eval.mm_projector.{order}"]) < 1e-5


def test_full_size_names_and_shapes(golden):
    with torch.device("meta"):
        projector = Projector(in_channels=1024, planes=2048, out_channels=2048)
    assert shapes(projector) == full_size_shapes(golden, "model.mm_projector.")


@pytest.mark.parametrize(("hw", "stride", "grid"), [((8, 8), 2, (4, 4)), ((5, 3), 2, (3, 2)), ((4, 6), 1, (4, 6))])
def test_tokens_run_row_by_row_over_the_grid(hw, stride, grid):
    """Each token is what its own place alone makes of it, when only the shortcut speaks."""
    projector = Projector(2, 2, 2, stride).eval()
    block = projector.layer1[0]
    with torch.no_grad():
        for weight in (block.conv2.weight, projector.fc.bias):
            weight.zero_()
        block.downsample[0].weight.copy_(torch.eye(2)[..., None, None])
        projector.fc.weight.copy_(torch.eye(2))
        y, x = torch.meshgrid(torch.arange(hw[0]), torch.arange(hw[1]), indexing="ij")
        tokens = projector(torch.stack([y, x])[None].float())[0]
    expected = [[row * stride, column * stride] for row in range(grid[0]) for column in range(grid[1])]
    torch.testing.assert_close(tokens, torch.tensor(expected).float(), rtol=1e-4, atol=1e-4)


def test_the_second_convolution_runs_twice():
    """The released slip: with a doubling second convolution the branch grows fourfold."""
    projector = Projector(1, 1, 1).eval()
    block = projector.layer1[0]
    with torch.no_grad():
        for convolution, gain in ((block.conv1, 1), (block.conv2, 2)):
            convolution.weight.zero_()[0, 0, 1, 1] = gain
        block.downsample[0].weight.zero_()
        projector.fc.weight.fill_(1)
        projector.fc.bias.zero_()
        assert projector(torch.ones(1, 1, 2, 2)).item() == pytest.approx(4, rel=1e-4)


def test_gradient_reaches_every_parameter_and_bfloat16_runs():
    torch.manual_seed(0)
    projector = Projector(8, 16, 12)
    projector(torch.randn(2, 8, 6, 6)).square().sum().backward()
    assert not [name for name, parameter in projector.named_parameters() if not parameter.grad.any()]
    assert projector.eval().bfloat16()(torch.randn(1, 8, 6, 6).bfloat16()).dtype == torch.bfloat16
