"""The released code's own numbers, for every seed in the folder of ground truths (XSEG_GOLDEN, or tests/golden)."""

from __future__ import annotations

import json
from functools import partialmethod

import numpy as np
import pytest
import torch
from reference_case import FOLDER, SEEDS, TINY, TOLERANCE, Case, follow, read_config, sampled
from reference_rules import (
    full_size_scores,
    label_map,
    pick_greedily,
    plain_attention,
    plain_deformable_attention,
)
from safetensors.torch import load_file

from egoexo_xseg.config import TrainConfig
from egoexo_xseg.model import objective as objective_file
from egoexo_xseg.model import precision
from egoexo_xseg.model import segmenter as segmenter_file
from egoexo_xseg.model.checkpoint import check_weights
from egoexo_xseg.model.configuration import CrossViewConfig
from egoexo_xseg.model.inputs import collate
from egoexo_xseg.model.losses import LevelLoss, level_loss
from egoexo_xseg.model.objective import Objective
from egoexo_xseg.model.pixel_decoder import DeformableAttention
from egoexo_xseg.model.prompts import PromptBuilder, byte_tokenizer, lay_out
from egoexo_xseg.model.released import from_released, is_dead, to_released
from egoexo_xseg.model.segmenter import CrossViewModel


@pytest.fixture(scope="module")
def segmenter() -> CrossViewModel:
    path = TINY / "weights.safetensors"
    if not path.is_file():
        pytest.skip("no weights in this folder")
    config = read_config(TINY)
    weights = from_released(load_file(path), config.language.num_attention_heads)
    check_weights(config, weights, where=path)
    model = CrossViewModel(config)
    model.load_state_dict(weights)
    return model.eval()


@pytest.fixture(params=SEEDS)
def case(request) -> Case:
    return Case(request.param, read_config(TINY))


@pytest.fixture
def seen(segmenter):
    """What every part received and returned in the latest forward pass, in call order."""
    calls: dict[str, list] = {}
    handles = [
        getattr(segmenter, part).register_forward_hook(
            lambda _module, _args, given, made, part=part: calls.setdefault(part, []).append((given, made)),
            with_kwargs=True,
        )
        for part in ("language", "mask_head", "object_head", "caption_head", "fusion", "pixel_decoder")
    ]
    yield calls
    for handle in handles:
        handle.remove()


def test_pixels(case):
    for index, record in enumerate(case.meta["records"]):
        if index and f"sample{index}.raw_query_image_u8_hwc" not in case.inputs:
            continue  # a reduced folder holds the first record only
        sample = case.sample(index, "")
        assert sample.target.fit.hw == (record["image_info"]["height"], record["image_info"]["width"])
        for view, kind in (("query", "first_frame_anns"), ("target", "anns")):
            assert_same(case, f"sample{index}.raw_{view}_masks", np.stack(case.masks(index, kind)))
            assert_same(case, f"sample{index}.{view}_image_padded_u8_hwc", getattr(sample, view).image)
            assert_same(case, f"train.{view}_masks_padded.{index}", getattr(sample, f"{view}_masks"))
            if index == 0:
                assert_same(case, f"eval.{view}_masks_padded", getattr(sample, f"{view}_masks"))
    assert case.compared


def assert_same(case: Case, name: str, found: np.ndarray) -> None:
    if name in case.inputs:
        assert np.array_equal(case.inputs[name].numpy(), found), name
        case.compared += 1


def test_prompts(case):
    captions = [[entry["sent"] for entry in record["instruction"]] for record in case.meta["records"]]
    released = [PromptBuilder(byte_tokenizer()).build(own) for own in captions]
    assert list(released[0].ids) == case.meta["prompt_ids_train_sample0"]
    evaluated = PromptBuilder(byte_tokenizer(), "</s>").build(captions[0])
    for name, prompts in (("train", released), ("eval", [evaluated])):
        if f"{name}.input_ids" not in case.inputs:
            continue
        rows = zip(case.inputs[f"{name}.input_ids"], case.inputs[f"{name}.attention_mask"], strict=True)
        for b, (ids, attended) in enumerate(rows):
            assert list(prompts[b].ids) == ids[attended].tolist()
            assert list(prompts[b].caption_ids) == case.inputs[f"{name}.token_refer_id.{b}"].tolist()


@torch.no_grad()
def test_evaluation(case, segmenter, seen, monkeypatch):
    batch = collate([case.sample(0, "</s>")])
    features: list[torch.Tensor] = []
    pool = sampled(case.config.grid, case.points("eval"), batch.num_objects, features)
    monkeypatch.setattr(segmenter_file, "pool_regions", pool)
    follow(case, "eval", monkeypatch)
    encoding = segmenter.encode(batch.images)
    output = segmenter.answer(batch, encoding)

    for order, image in ((0, batch.target[0]), (1, batch.query[0])):
        for stage in range(4):
            case.check(f"eval.swin.{order}.res{stage + 2}", encoding.features[stage][image])
        case.check(f"eval.mm_projector.{order}", encoding.tokens[image])
    case.check("eval.region_sampler.0.sample0", features[0])
    (given, made), *_ = seen["language"]
    attended = lay_out(batch.prompts, encoding.tokens.shape[1], case.config.decoder.num_mask_tokens).attended
    if "eval.llm.0.attention_mask" in case.outputs:
        assert torch.equal(attended, case.outputs["eval.llm.0.attention_mask"])
    case.check("eval.llm.0.inputs_embeds", given["inputs_embeds"])
    case.check("eval.llm.0.last_hidden_state", made.last_hidden_state)
    case.check("eval.seg_query_projector.out", seen["mask_head"][0][1])
    case.check("eval.SEG_token_projector.out", seen["caption_head"][0][1][:, 0])
    case.check("eval.region_projector.0", output.objects)
    case.check("eval.mcfuse.sample0", seen["fusion"][0][1])
    mask_features, memory = seen["pixel_decoder"][0][1]
    case.check("eval.pixel_decoder.mask_features", mask_features)
    for scale, level in enumerate(memory):
        case.check(f"eval.pixel_decoder.multi_scale.{scale}", level)
    for depth, (masks, conditions) in enumerate(output.levels):
        case.check(f"eval.predictor.layer{depth}.pred_masks", masks)
        case.check(f"eval.predictor.layer{depth}.region_logits.sample0", conditions)
    assert case.compared
    check_answer(case, batch, output)


def check_answer(case: Case, batch, output, tolerance: float = TOLERANCE) -> None:
    """Proposals are equal; so are pixels and labels, but where a logit is zero within the tolerance."""
    fit, objects = batch.fits[0], case.meta["records"][0]["anns"]
    logits, scores = full_size_scores(output.mask_logits[0], output.condition_logits[0], fit, fit.hw)
    picked = pick_greedily(scores)
    sure = logits.abs() >= tolerance * logits.abs().max()
    assert sure.float().mean() > 0.99
    painted = label_map(logits > 0, picked, [int(entry["category_id"]) for entry in objects])
    for name, found, compared in (
        ("query_masks_u8", (logits > 0).to(torch.uint8), sure),
        ("picked_query", torch.tensor(picked), torch.ones(len(picked), dtype=torch.bool)),
        ("fused_label_map", painted, sure[picked].all(0)),
    ):
        if f"eval.final.{name}" in case.outputs:
            assert torch.equal(case.outputs[f"eval.final.{name}"][compared], found[compared]), name
    case.check("eval.final.scores", scores)
    case.check("eval.final.picked_score", scores[torch.arange(len(picked)), picked])


@pytest.fixture
def released_order(segmenter, monkeypatch):
    """Every sum in the order of the released code on two threads; our fused kernels round differently."""
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", plain_attention)
    monkeypatch.setattr(precision, "fuses", lambda x, weight: False)
    monkeypatch.setattr(DeformableAttention, "forward", plain_deformable_attention)
    segmenter.language.set_attn_implementation("eager")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)
    segmenter.language.set_attn_implementation("sdpa")


@torch.no_grad()
def test_pixels_in_the_released_order_of_operations(case, segmenter, released_order, monkeypatch):
    """With every sum taken in the released order, all pixels are equal.

    Rounding alone can turn a pixel whose logit is next to zero: the released code disagrees with itself in a few when
    it runs on another number of threads. Where even the image tower rounds differently, this cannot be compared.
    """
    batch = collate([case.sample(0, "</s>")])
    pool = sampled(case.config.grid, case.points("eval"), batch.num_objects)
    monkeypatch.setattr(segmenter_file, "pool_regions", pool)
    encoding = segmenter.encode(batch.images)
    for stage in range(4):
        expected = case.outputs.get(f"eval.swin.0.res{stage + 2}")
        if expected is not None and not torch.equal(expected[0], encoding.features[stage][batch.target[0]]):
            pytest.skip("this processor rounds differently")
    check_answer(case, batch, segmenter.answer(batch, encoding), tolerance=0.0)


@torch.no_grad()
def test_training_forward(case, segmenter, seen, released_order, monkeypatch):
    """A batch of two records of different lengths, and the second pass with objects from the target view.

    In the released order of operations, since not every level's masks are there to `follow`.
    """
    points = case.points("train")
    batch = collate([case.sample(index, "<|endoftext|>") for index in range(len(case.meta["records"]))])
    counts, features, grid = batch.num_objects, [], case.config.grid
    monkeypatch.setattr(segmenter_file, "pool_regions", sampled(grid, points, counts, features))
    encoding = segmenter.encode(batch.images)
    output = segmenter.answer(batch, encoding)
    target = encoding.tokens[list(batch.target)]
    again = sampled(grid, points[sum(counts) :], counts, features)(target, batch.target_masks, grid)
    aligned = segmenter.read(batch.prompts, target, again)

    for order, images in enumerate((batch.target, batch.query, batch.target)):
        case.check(f"train.mm_projector.{order}", encoding.tokens[list(images)])
    case.check("train.seg_query_projector.out", seen["mask_head"][0][1])
    case.check("train.SEG_token_projector.out", seen["caption_head"][0][1][:, 0])
    attended = lay_out(batch.prompts, target.shape[1], case.config.decoder.num_mask_tokens).attended
    for run, (objects, pooled) in enumerate(zip((output.objects, aligned.objects), features, strict=True)):
        check_hidden(case, run, seen["language"][run][1].last_hidden_state, attended)
        for b, count in enumerate(counts):
            case.check(f"train.region_sampler.{run}.sample{b}", pooled[b, :count])
            case.check(f"train.region_projector.{run * len(counts) + b}", objects[b, :count])
    for b, count in enumerate(counts):
        case.check(f"train.mcfuse.sample{b}", seen["fusion"][0][1][b, :count])
        for depth, (_, conditions) in enumerate(output.levels):
            case.check(f"train.predictor.layer{depth}.region_logits.sample{b}", conditions[b, :count])
    case.check(f"train.predictor.layer{len(output.levels) - 1}.pred_masks", output.mask_logits)
    assert case.compared


def test_training_losses(case, segmenter, released_order, monkeypatch):
    """With the recorded draws: every matching, every level's losses, their sum, and gradients all over the model.

    In the released order of operations. The slope of a bilinear read jumps from cell to cell, so a place that another
    processor's rounding puts on the other side of an edge has another gradient altogether: where one is too far off,
    it may be off by what moving all places by a rounding's breadth changes.
    """
    gradients = training_gradients(case, segmenter, monkeypatch)
    names = [name for name in case.outputs if name.startswith("train.grad.")]
    far = [name for name in names if not case.agrees(name, gradients[name])]
    nudged = []
    for nudge in (5e-6, -5e-6) if far else ():
        monkeypatch.setattr(DeformableAttention, "forward", partialmethod(plain_deformable_attention, nudge=nudge))
        nudged.append(training_gradients(case, segmenter, monkeypatch))
    for name in names:
        moved = [(other[name] - gradients[name]).abs() for other in nudged] if name in far else [0]
        case.check(name, gradients[name], slack=sum(moved))
    assert case.compared >= 12


def training_gradients(case, segmenter, monkeypatch) -> dict[str, torch.Tensor]:
    """By the names of the recorded ones; checks all losses on the way."""
    points, grid = case.points("train"), case.config.grid
    batch = collate([case.sample(index, "<|endoftext|>") for index in range(len(case.meta["records"]))])
    counts = batch.num_objects
    pools = iter([sampled(grid, points, counts), sampled(grid, points[sum(counts) :], counts)])
    recorded = [value for name, value in sorted(case.outputs.items()) if name.startswith("train.criterion.rand")]
    levels = len(recorded) // (len(counts) + 2)
    first = len(recorded) // levels  # theirs begin with the last level, ours end with it
    draws = iter(recorded[first:] + recorded[:first])
    found: list[LevelLoss] = []

    def listened(*given) -> LevelLoss:
        found.append(level_loss(*given))
        return found[-1]

    with monkeypatch.context() as patch:
        patch.setattr(segmenter_file, "pool_regions", lambda *given: next(pools)(*given))
        patch.setattr(torch, "rand", lambda *shape, **_: replayed(draws, shape))
        patch.setattr(objective_file, "level_loss", listened)
        parts = Objective(segmenter, TrainConfig(num_points=recorded[0].shape[-2]))(batch)
    assert len(found) == levels and next(draws, None) is None
    for depth, loss in enumerate(found):
        turn = (depth + 1) % levels
        suffix = f"_{depth}" if turn else ""
        for name, value in (("mask", loss.mask), ("dice", loss.dice), ("region_class", loss.condition)):
            case.check(f"train.loss_unweighted.loss_{name}{suffix}", value)
        for b in range(len(counts)):
            match, own = f"train.criterion.match.{turn}.sample{b}", loss.matching.records == b
            assert torch.equal(loss.matching.proposals[own], case.outputs[f"{match}.query"])
            assert torch.equal(loss.matching.objects[own], case.outputs[f"{match}.target"])
    for theirs, ours, weight in (("mask", "mask", 5), ("dice", "dice", 5), ("region_class", "condition", 2)):
        case.check(f"train.loss.loss_{theirs}", weight * parts[ours])
    case.check("train.loss.loss_region_emb_SSL", parts["alignment"])
    case.check("train.loss.loss", parts["loss"])

    segmenter.zero_grad()
    parts["loss"].backward()
    weights = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in segmenter.named_parameters()
    }
    released = to_released(segmenter.state_dict() | weights, case.config.language.num_attention_heads)
    return {f"train.grad.{name}": value for name, value in released.items()}


def replayed(draws, shape):
    draw = next(draws)
    assert draw.shape == shape
    return draw


def check_hidden(case: Case, run: int, hidden: torch.Tensor, attended: torch.Tensor) -> None:
    """Only real positions: what padding becomes is nobody's business."""
    name = f"train.llm.{run}.last_hidden_state"
    if name in case.outputs:
        expected, mask = case.outputs[name], case.outputs[f"train.llm.{run}.attention_mask"]
        assert mask.sum(1).tolist() == attended.sum(1).tolist()
        error = (hidden[attended] - expected[mask]).abs().max() / expected[mask].abs().max()
        assert error <= TOLERANCE, f"{name}: {error:.1e}"


def test_every_weight_of_the_full_model_is_accounted_for(caplog):
    path = FOLDER / "reference_full_manifest.json"
    if not path.is_file():
        pytest.skip("no manifest in this folder")
    manifest = json.loads(path.read_text())
    weights = {
        name: torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")), device="meta")
        for name, (shape, dtype) in manifest.items()
    }
    config = CrossViewConfig()
    heads = config.language.num_attention_heads
    check_weights(config, from_released(weights, heads), where=path)
    assert not caplog.records  # nothing unknown
    back = to_released(from_released(weights, heads), heads)
    dead = {name for name in weights if is_dead(name)}
    assert len(manifest) == len(back) + len(dead) == 940
    assert {name: tensor.shape for name, tensor in back.items()} == {
        name: tensor.shape for name, tensor in weights.items() if name not in dead
    }


def test_released_names_round_trip():
    path = TINY / "weights.safetensors"
    if not path.is_file():
        pytest.skip("no weights in this folder")
    weights = load_file(path)
    heads = read_config(TINY).language.num_attention_heads
    back = to_released(from_released(weights, heads), heads)
    assert back.keys() == {name for name in weights if not is_dead(name)}
    assert all(torch.equal(back[name], weights[name]) for name in back)
