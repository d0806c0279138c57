"""The whole model at tiny size: batches, sharing, gradients, answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from egoexo_xseg.model.answers import segment
from egoexo_xseg.model.configuration import CrossViewConfig
from egoexo_xseg.model.inputs import Sample, View, collate
from egoexo_xseg.model.prompts import PromptBuilder, byte_tokenizer
from egoexo_xseg.model.segmenter import CrossViewModel, Reading

CONFIG = CrossViewConfig.tiny()
SIDE = CONFIG.image_size


@pytest.fixture(scope="module")
def segmenter() -> CrossViewModel:
    torch.manual_seed(0)
    return CrossViewModel(CONFIG).eval()


def make_view(name: str) -> View:
    hw = (120, 120) if name.startswith("ego") else (80, 120)
    pixels = np.random.default_rng(sum(name.encode())).integers(0, 256, (*hw, 3), np.uint8)
    return View.of(name, pixels, SIDE)


def make_sample(query: str, target: str, captions: list[str | None]) -> Sample:
    masks = np.zeros((len(captions), SIDE, SIDE), bool)
    for k in range(len(captions)):
        masks[k, 10 * k : 10 * k + 30, 20 * k : 20 * k + 40] = True
    prompt = PromptBuilder(byte_tokenizer()).build(captions)
    return Sample(make_view(query), make_view(target), masks, prompt)


SAMPLES = [
    make_sample("ego", "exo1", ["red cup"]),
    make_sample("ego", "exo2", [None, "a knife with a long handle", None]),
    make_sample("exo1", "ego2", [None, None]),
]


@torch.no_grad()
def test_batches_answer_like_single_records(segmenter):
    together = segmenter(collate(SAMPLES))
    assert together.present.tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 0]]
    for b, sample in enumerate(SAMPLES):
        alone = segmenter(collate([sample]))
        count = len(sample.query_masks)
        close = {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(together.mask_logits[b], alone.mask_logits[0], **close)
        torch.testing.assert_close(together.condition_logits[b, :count], alone.condition_logits[0], **close)
        torch.testing.assert_close(together.objects[b, :count], alone.objects[0], **close)


def test_segmentations_of_batches_and_single_records(segmenter):
    sizes = [(60, 40), (90, 60), (33, 22)]
    for sample, hw, together in zip(SAMPLES, sizes, segment(segmenter, collate(SAMPLES), sizes), strict=True):
        (alone,) = segment(segmenter, collate([sample]), [hw])
        assert together.masks.shape == (len(sample.query_masks), *hw)
        assert together.masks.flatten(1).any(1).all()
        assert (together.masks == alone.masks).float().mean() > 0.999  # a pixel may lie on the threshold
        for name in ("scores", "margins", "likenesses"):
            scores, expected = getattr(together, name), getattr(alone, name)
            torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
            assert ((scores >= 0) & (scores <= 1)).all()


@torch.no_grad()
def test_each_distinct_image_is_seen_once(segmenter):
    seen = {"swin": [], "pixel_decoder": []}
    handles = [
        getattr(segmenter, part).register_forward_pre_hook(
            lambda _module, args, part=part: seen[part].append(len(args[0] if part == "swin" else args[0][0]))
        )
        for part in seen
    ]
    queries = [make_sample(query, "ego", [None]) for query in ("exo1", "exo2", "exo1")]
    segmenter(collate(queries))
    for handle in handles:
        handle.remove()
    assert seen == {"swin": [3], "pixel_decoder": [1]}


@torch.no_grad()
@pytest.mark.parametrize("side", [96, 100, 135])
def test_any_image_size_fits_its_grid(side):
    config = CrossViewConfig.tiny()
    config.image_size = side
    model = CrossViewModel(config).eval()
    encoding = model.encode(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    assert encoding.tokens.shape[1] == config.grid[0] * config.grid[1]


@torch.no_grad()
def test_encodings_can_be_kept(segmenter):
    batch = collate(SAMPLES[:1])
    kept = segmenter.answer(batch, segmenter.encode(batch.images))
    assert torch.equal(kept.mask_logits, segmenter(batch).mask_logits)


@torch.no_grad()
def test_decoding_does_not_depend_on_the_order_of_objects(segmenter):
    """The language model reads objects one after the other, so only what follows it can be indifferent."""
    batch = collate(SAMPLES[1:2])
    encoding = segmenter.encode(batch.images)
    torch.manual_seed(1)
    hidden = CONFIG.decoder.hidden_dim
    captioned = torch.ones(1, 3, dtype=torch.bool)
    reading = Reading(torch.randn(1, 12, hidden), torch.randn(1, 3, hidden), torch.randn(1, 1, hidden), captioned)
    order = [2, 0, 1]
    straight = segmenter.decode(batch, encoding, reading)
    turned = segmenter.decode(batch, encoding, replace(reading, objects=reading.objects[:, order]))
    torch.testing.assert_close(turned.mask_logits, straight.mask_logits)
    torch.testing.assert_close(turned.condition_logits, straight.condition_logits[:, order])


@torch.no_grad()
def test_captions_matter(segmenter):
    batch = collate(SAMPLES[1:2])
    other = collate([make_sample("ego", "exo2", [None, "a spoon", None])])
    assert not torch.allclose(segmenter(batch).mask_logits, segmenter(other).mask_logits, atol=1e-6)


def test_gradient_reaches_every_weight(segmenter):
    model = CrossViewModel(CONFIG)
    model.load_state_dict(segmenter.state_dict())
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():  # some start at zero, which would hold back what comes before them
            weight.add_(0.02 * torch.randn_like(weight))
    output = model.eval()(collate(SAMPLES))
    for masks, conditions in output.levels:
        (masks.square().mean() + conditions.square().mean()).backward(retain_graph=True)
    untouched = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert untouched == []


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_finite(segmenter, dtype):
    model = CrossViewModel(CONFIG)
    model.load_state_dict(segmenter.state_dict())
    output = model.eval().to(dtype)(collate(SAMPLES))
    assert output.mask_logits.dtype == torch.float32
    assert output.mask_logits.isfinite().all() and output.condition_logits.isfinite().all()
