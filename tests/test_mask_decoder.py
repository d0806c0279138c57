"""The mask decoder against the released goldens, torch's own attention, transformers' layers, and its masks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from released_parts import UNREAD, Tiny, full_size_shapes, relative_error, shapes
from torch import nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerMaskedAttentionDecoderLayer

from egoexo_xseg.model.mask_decoder import Attention, Canvas, MaskDecoder, resize, where_to_look
from egoexo_xseg.model.positions import sine_positions

SMALL = {"hidden_dim": 16, "mask_dim": 8, "num_heads": 2, "num_layers": 4, "feedforward_dim": 24, "num_queries": 5}


@pytest.fixture
def decoder() -> MaskDecoder:
    torch.manual_seed(0)
    decoder = MaskDecoder(**SMALL)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return decoder.eval()


def inputs(batch: int = 2, objects: int = 3) -> dict:
    memory = tuple(torch.randn(batch, 16, *hw) for hw in ((2, 3), (4, 5), (8, 10)))
    return {
        "canvas": Canvas(torch.randn(batch, 8, 16, 20), memory, tuple(range(batch))),
        "mask_embeddings": torch.randn(batch, 5, 16),
        "condition_embeddings": torch.randn(batch, objects, 16),
    }


def test_released_levels(golden):
    tiny = Tiny(golden)
    mask = tiny.mask
    decoder = MaskDecoder(
        hidden_dim=mask["HIDDEN_DIM"],
        mask_dim=mask["MASK_DIM"],
        num_heads=mask["NHEADS"],
        num_layers=mask["DEC_LAYERS"] - 1,
        feedforward_dim=mask["DIM_FEEDFORWARD"],
        num_queries=mask["NUM_OBJECT_QUERIES"],
    )
    tiny.load(decoder, "predictor.")
    for seed in tiny.seeds:
        outputs = tiny.outputs(seed)
        with torch.no_grad():
            levels = decoder(
                Canvas(
                    outputs["eval.pixel_decoder.mask_features"],
                    tuple(outputs[f"eval.pixel_decoder.multi_scale.{scale}"] for scale in range(3)),
                    own=(0,),
                ),
                mask_embeddings=outputs["eval.seg_query_projector.out"],
                condition_embeddings=outputs["eval.mcfuse.sample0"][None],
            )
        assert len(levels) == mask["DEC_LAYERS"]
        for depth, level in enumerate(levels):
            expected = f"eval.predictor.layer{depth}."
            assert relative_error(level.mask_logits, outputs[f"{expected}pred_masks"]) < 1e-5
            assert relative_error(level.condition_logits[0], outputs[f"{expected}region_logits.sample0"]) < 1e-5


def test_full_size_names_and_shapes(golden):
    with torch.device("meta"):
        decoder = MaskDecoder(
            hidden_dim=256, mask_dim=256, num_heads=8, num_layers=9, feedforward_dim=2048, num_queries=100
        )
    assert shapes(decoder) == full_size_shapes(golden, "predictor.")
    assert not any(name.startswith(UNREAD) for name in shapes(decoder))


def test_attention_is_torchs_own():
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    ours = Attention(16, 4)
    ours.load_state_dict(theirs.state_dict())
    q, k, v = torch.randn(2, 3, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    attended = torch.rand(2, 3, 7) > 0.4
    attended[..., 0] = True
    expected, _ = theirs(q, k, v, attn_mask=~attended.repeat_interleave(4, 0))
    torch.testing.assert_close(ours(q, k, v, attended[:, None]), expected)
    torch.testing.assert_close(ours(q, k, v), theirs(q, k, v)[0])


def test_layers_are_mask2formers(decoder):
    """Every level from transformers' layers with the same weights, in the other axis order that they want."""
    given = inputs(batch=1)
    config = Mask2FormerConfig(hidden_dim=16, num_attention_heads=2, dim_feedforward=24, dropout=0.0)
    sizes = [tuple(level.shape[2:]) for level in given["canvas"].memory]
    codes = [sine_positions(hw, 16, torch.device("cpu"))[:, None] for hw in sizes]
    values = [
        level.flatten(2).permute(2, 0, 1) + own
        for level, own in zip(given["canvas"].memory, decoder.level_embed.weight, strict=True)
    ]
    x = given["mask_embeddings"].transpose(0, 1)
    with torch.no_grad():
        levels = decoder(**given)
        for depth in range(SMALL["num_layers"]):
            scale = depth % 3
            attended = where_to_look(levels[depth].mask_logits, sizes[scale])[:, 0]
            x = mask2former_layer(config, decoder, depth)(
                x,
                level_index=scale,
                position_embeddings=codes,
                query_position_embeddings=decoder.query_embed.weight[:, None],
                encoder_hidden_states=values,
                encoder_attention_mask=~attended.expand(2, -1, -1),
            )[0]
            canvas, conditions = given["canvas"], given["condition_embeddings"]
            expected = decoder.predict(x.transpose(0, 1), canvas.mask_features, canvas.groups(), conditions)
            for found, wanted in zip(levels[depth + 1], expected, strict=True):
                assert relative_error(found, wanted) < 1e-5


def mask2former_layer(config, decoder: MaskDecoder, depth: int) -> Mask2FormerMaskedAttentionDecoderLayer:
    layer = Mask2FormerMaskedAttentionDecoderLayer(config).eval()
    cross = decoder.transformer_cross_attention_layers[depth].state_dict()
    own = decoder.transformer_self_attention_layers[depth].state_dict()
    think = decoder.transformer_ffn_layers[depth].state_dict()
    weights = {name.replace("multihead_attn", "cross_attn"): tensor for name, tensor in cross.items()}
    for kind in ("weight", "bias"):
        parts = own[f"self_attn.in_proj_{kind}"].chunk(3)
        weights |= {f"self_attn.{x}_proj.{kind}": part for x, part in zip("qkv", parts, strict=True)}
        weights |= {
            f"self_attn.out_proj.{kind}": own[f"self_attn.out_proj.{kind}"],
            f"self_attn_layer_norm.{kind}": own[f"norm.{kind}"],
            f"cross_attn_layer_norm.{kind}": weights.pop(f"norm.{kind}"),
            f"fc1.{kind}": think[f"linear1.{kind}"],
            f"fc2.{kind}": think[f"linear2.{kind}"],
            f"final_layer_norm.{kind}": think[f"norm.{kind}"],
        }
    layer.load_state_dict(weights)
    return layer


def test_a_proposal_looks_inside_its_mask_or_everywhere():
    nowhere, partly, barely = torch.full((3, 2, 2), -1.0)
    partly[0, 1], barely[1, 0] = 2.0, 0.0
    attended = where_to_look(torch.stack([nowhere, partly, barely])[None], (2, 2))
    assert attended.shape == (1, 1, 3, 4)
    assert attended[0, 0].tolist() == [[True] * 4, [False, True, False, False], [False, False, True, False]]


def test_where_to_look_reads_between_the_values_around_a_centre():
    """The four values nearest to a coarse cell's centre decide, by their mean; those further out do not count."""
    cells = torch.full((2, 4, 4), 9.0)
    cells[0, 1:3, 1:3] = torch.tensor([[5.0, -5.0], [-5.0, 4.0]])
    cells[1] = -9.0
    cells[1, 1:3, 1:3] = torch.tensor([[5.0, -5.0], [-4.0, 5.0]])
    logits = torch.cat(list(cells), 1)[None, None]  # (1, 1, 4, 8)
    assert where_to_look(logits, (1, 2)).flatten().tolist() == [False, True]


def test_order_of_objects_and_other_records_do_not_matter(decoder):
    given = inputs(batch=2)
    with torch.no_grad():
        levels = decoder(**given)
        turned = decoder(**given | {"condition_embeddings": given["condition_embeddings"].flip(1)})
        alone = decoder(
            replace(given["canvas"], own=(1,)),
            **{name: tensor[1:] for name, tensor in given.items() if name != "canvas"},
        )
    for level, flipped, single in zip(levels, turned, alone, strict=True):
        torch.testing.assert_close(flipped.condition_logits.flip(1), level.condition_logits)
        torch.testing.assert_close(flipped.mask_logits, level.mask_logits)
        torch.testing.assert_close(single.mask_logits, level.mask_logits[1:], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(single.condition_logits, level.condition_logits[1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("own", [(0, 1, 2), (1, 0, 1), (2, 2, 2)])
def test_records_may_share_an_image(decoder, own):
    """As if each had a copy of its own: every level, the short way, and gradients."""
    given = inputs(batch=3)
    canvas = replace(given.pop("canvas"), own=own)
    features = [canvas.mask_features.requires_grad_(), *(scale.requires_grad_() for scale in canvas.memory)]
    apart = Canvas(canvas.mask_features[list(own)], tuple(scale[list(own)] for scale in canvas.memory), (0, 1, 2))
    sums = []
    for shared, single in zip(decoder(canvas, **given), decoder(apart, **given), strict=True):
        torch.testing.assert_close(shared, single, rtol=1e-4, atol=1e-5)
    for each in (canvas, apart):
        levels = decoder(each, **given)
        sums.append(sum((logits * logits.detach().cos()).sum() for level in levels for logits in level))
    for shared, single in zip(*(torch.autograd.grad(total, features) for total in sums), strict=True):
        torch.testing.assert_close(shared, single, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(
            decoder.finish(canvas, **given), decoder.finish(apart, **given), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("hw", [(3, 5), (12, 7), (40, 40)])
def test_maps_are_resized_as_torch_does(hw):
    maps = torch.randn(2, 7, 12, 20)
    torch.testing.assert_close(resize(maps, hw), F.interpolate(maps, size=hw, mode="bilinear", align_corners=False))


def test_the_short_way_ends_at_the_same_level(decoder):
    given = inputs(batch=3) | {"real": torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] * 4 + [False]])}
    with torch.no_grad():
        last, short = decoder(**given)[-1], decoder.finish(**given)
    torch.testing.assert_close(short.mask_logits, last.mask_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(short.condition_logits, last.condition_logits, rtol=1e-4, atol=1e-4)


def test_no_objects_is_no_error(decoder):
    assert decoder(**inputs(objects=0))[-1].condition_logits.shape == (2, 0, 5)


def test_gradient_reaches_every_parameter_but_not_through_where_to_look(decoder):
    given = inputs()
    features = given["canvas"].mask_features.requires_grad_()
    levels = decoder(**given)
    (gradient,) = torch.autograd.grad(levels[-1].condition_logits.sum(), features, retain_graph=True, allow_unused=True)
    assert gradient is None
    sum(logits.square().sum() for level in levels for logits in level).backward()
    assert not [name for name, parameter in decoder.named_parameters() if not parameter.grad.any()]


def test_bfloat16(decoder):
    given = inputs()
    rough = {name: value.bfloat16() for name, value in given.items() if name != "canvas"}
    canvas = given["canvas"]
    rough_canvas = Canvas(canvas.mask_features.bfloat16(), tuple(x.bfloat16() for x in canvas.memory), canvas.own)
    with torch.no_grad():
        exact = decoder(**given)[0]
        levels = decoder.bfloat16()(rough_canvas, **rough)
    assert {logits.dtype for level in levels for logits in level} == {torch.float32}
    assert relative_error(levels[0].mask_logits.float(), exact.mask_logits) < 0.1
