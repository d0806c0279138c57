"""Answering without gradients: the same answers as the whole model's, with less work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_segmenter import CONFIG, SAMPLES, make_sample
from test_world import sample_pair

from egoexo_xseg.api import CrossViewSegmenter
from egoexo_xseg.errors import XsegError
from egoexo_xseg.model import answers
from egoexo_xseg.model.assignment import assign, score_proposals
from egoexo_xseg.model.configuration import CrossViewConfig
from egoexo_xseg.model.inputs import Fit, collate
from egoexo_xseg.model.segmenter import CrossViewModel

SIZES = [(60, 40), (90, 60), (33, 22)]
SHIPPED = Path(__file__).parents[1] / "weights" / "xseg-tiny"
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def make_model(**changes) -> CrossViewModel:
    config = CrossViewConfig.tiny()
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    return CrossViewModel(config).eval()


@pytest.fixture(scope="module")
def segmenter() -> CrossViewModel:
    return make_model()


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["released", "per_object"])
def test_reading_in_parts_is_reading_at_once(fusion):
    segmenter = make_model(fusion=fusion)
    samples = [*SAMPLES, make_sample("exo2", "ego2", ["a bowl"]), make_sample("exo2", "ego", [None])]
    batch = collate(samples)
    sight = answers.Sight.of(segmenter, batch, segmenter.encode(batch.images))
    whole = segmenter.read(batch.prompts, sight.encoding.tokens[list(batch.target)], sight.regions)
    parts = answers.read(segmenter, sight)
    torch.testing.assert_close(parts.masks, whole.masks, **CLOSE)
    torch.testing.assert_close(parts.captions, whole.captions, **CLOSE)
    assert torch.equal(parts.captioned, whole.captioned)
    for b, count in enumerate(batch.num_objects):
        torch.testing.assert_close(parts.objects[b, :count], whole.objects[b, :count], **CLOSE)


@pytest.mark.parametrize("changes", [{}, {"object_proposals": True, "fusion": "per_object", "region_levels": [0]}])
def test_answers_are_the_models(changes):
    segmenter = make_model(**changes)
    batch = collate(SAMPLES)
    with torch.no_grad():
        output = segmenter(batch)
    for b, (found, count) in enumerate(zip(answers.segment(segmenter, batch, SIZES), batch.num_objects, strict=True)):
        real = len(segmenter.mask_tokens) + count * segmenter.config.object_proposals
        masks, conditions = output.mask_logits[b, :real], output.condition_logits[b, :count, :real]
        scores = score_proposals(masks, conditions, batch.fits[b])
        chosen = assign(scores)
        assert found.proposals.tolist() == chosen.tolist()
        torch.testing.assert_close(found.scores, scores[torch.arange(count), torch.from_numpy(chosen)], **CLOSE)
        assert found.masks.shape == (count, *SIZES[b])


@torch.no_grad()
def test_an_object_looks_like_itself_and_less_like_others(segmenter):
    """In the very same image; what answers spill into the padding does not count."""
    batch = collate([make_sample("ego", "ego", [None, None]), make_sample("exo1", "exo1", [None])])
    wide = Fit.of((60, 120), batch.fits[0].side)
    batch = replace(batch, fits=(wide, wide))
    sight = answers.Sight.of(segmenter, batch, segmenter.encode(batch.images))
    proposals = torch.where(batch.query_masks, 1.0, -1.0)  # (B, K, S, S)
    assert not batch.query_masks[:, :, wide.fitted_hw[0] :].any()
    proposals[:, :, wide.fitted_hw[0] :] = 1
    right = answers.compare(segmenter, sight, proposals, [np.array([0, 1]), np.array([0])])
    assert right[0].tolist() == pytest.approx([1, 1]) and float(right[1, 0]) == pytest.approx(1)
    wrong = answers.compare(segmenter, sight, proposals, [np.array([1, 0]), np.array([0])])
    cosine = torch.cosine_similarity(sight.regions[0, 0], sight.regions[0, 1], dim=0)
    assert wrong[0].tolist() == pytest.approx([float(1 + cosine) / 2] * 2) and float(cosine) < 0.999


def test_the_answer_does_not_depend_on_how_many_images_pass_at_once(segmenter, monkeypatch):
    batch = collate(SAMPLES)
    apart = answers.segment(segmenter, batch, SIZES)
    monkeypatch.setitem(answers.PIXELS_AT_ONCE, "cpu", 1)
    for one, other in zip(apart, answers.segment(segmenter, batch, SIZES), strict=True):
        torch.testing.assert_close(one.scores, other.scores, **CLOSE)


def test_large_masks_are_resized_a_few_at_a_time_to_the_same(segmenter, monkeypatch):
    batch = collate(SAMPLES)
    together = answers.segment(segmenter, batch, SIZES)
    monkeypatch.setattr(answers, "RESIZED_AT_ONCE", 1)
    for one, other in zip(together, answers.segment(segmenter, batch, SIZES), strict=True):
        assert torch.equal(one.masks, other.masks)


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [(torch.float16, "Their range is wider in bfloat16"), (None, "The checkpoint's weights may be broken")],
)
def test_numbers_out_of_range_are_an_error(dtype, remedy):
    segmenter = make_model().to(dtype)
    with torch.no_grad():
        segmenter.mask_head.bias.fill_(float("inf"))
    with pytest.raises(XsegError) as fault:
        answers.segment(segmenter, collate(SAMPLES[:1]), SIZES[:1])
    assert str(fault.value) == f"ego and exo1: scores are not finite. {remedy}"


def test_a_likeness_out_of_range_is_an_error(segmenter, monkeypatch):
    """An answer may lie where the target's features are infinite, while no score is."""
    monkeypatch.setattr(answers, "compare", lambda *_: torch.full((1, 1), float("nan")))
    with pytest.raises(XsegError, match="ego and exo1: scores are not finite"):
        answers.segment(segmenter, collate(SAMPLES[:1]), SIZES[:1])


def test_float16_answers_like_float32():
    scene = sample_pair(seed=3)
    objects = [label for label in np.unique(scene.ego_instances) if label][:4]
    masks = np.stack([scene.ego_instances == label for label in objects])
    exact, half = (
        CrossViewSegmenter.from_pretrained(SHIPPED, device="cpu", dtype=dtype).segment(
            scene.ego_image, masks, scene.exo_image
        )
        for dtype in (torch.float32, torch.float16)
    )
    both, either = (exact.masks & half.masks).sum((1, 2)), (exact.masks | half.masks).sum((1, 2))
    assert (both > 0.98 * either).all()
    np.testing.assert_allclose(half.visibility, exact.visibility, atol=0.01)


def test_work_done_for_a_frame(segmenter, monkeypatch):
    """One ego and three exo cameras, both directions: six records, four images."""
    exos = ("exo1", "exo2", "exo3")
    samples = [make_sample("ego", exo, ["a cup", None]) for exo in exos]
    samples += [make_sample(exo, "ego", [None, "a red bowl"]) for exo in exos]
    batch = collate(samples)
    work = {"swin": 0, "pixel_decoder": 0, "language": 0}
    hooks = [
        segmenter.swin.register_forward_pre_hook(lambda _, given: count("swin", len(given[0]))),
        segmenter.pixel_decoder.register_forward_pre_hook(lambda _, given: count("pixel_decoder", len(given[0][0]))),
        segmenter.language.register_forward_pre_hook(
            lambda _, __, given: count("language", given["inputs_embeds"].shape[:2].numel()), with_kwargs=True
        ),
    ]

    def count(part: str, amount: int) -> None:
        work[part] += amount

    resized, unfit = [], answers.unfit
    monkeypatch.setattr(answers, "unfit", lambda logits, *rest: (resized.append(len(logits)), unfit(logits, *rest))[1])
    answers.segment(segmenter, batch, [(40, 60)] * len(samples))
    for hook in hooks:
        hook.remove()
    opening = len(batch.prompts[0].opening)
    image = CONFIG.grid[0] * CONFIG.grid[1]
    rest = max(len(each.ids) + len(each.caption_ids) for each in batch.prompts) - opening - 3  # markers are no tokens
    rest += CONFIG.decoder.num_mask_tokens
    assert work == {"swin": 4, "pixel_decoder": 4, "language": opening + 4 * image + 6 * rest}
    assert resized == [2] * 6
