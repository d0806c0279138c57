"""The answers to a batch, without gradients: whatever its records share is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from transformers import DynamicCache

from egoexo_xseg.errors import XsegError
from egoexo_xseg.model.assignment import assign, binarise, margins, score_proposals
from egoexo_xseg.model.inputs import Batch, Fit, unfit
from egoexo_xseg.model.mask_decoder import Canvas
from egoexo_xseg.model.precision import full
from egoexo_xseg.model.prompts import lay_out
from egoexo_xseg.model.segmenter import CrossViewModel, Encoding, Reading

PIXELS_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 24}
"""Of images that pass the image tower or the pixel decoder together: what a device needs to be busy, and no more
memory than that. At full size one image on a CPU (some 0.5 GB in float32), 16 on a GPU."""

RESIZED_AT_ONCE = 1 << 26
"""Pixels of masks that are brought to the wanted size together."""


@dataclass(frozen=True)
class Segmentation:
    """The answer to one record, on the CPU: masks may overlap, each object is scored by itself."""

    masks: Bool[Tensor, "K H W"]
    scores: Float[Tensor, " K"]
    margins: Float[Tensor, " K"]
    likenesses: Float[Tensor, " K"]
    proposals: Int64[np.ndarray, " K"]
    """Which proposal each object was given."""


@dataclass(frozen=True)
class Sight:
    """What is seen of a batch before a word is read: its images, encoded, and its query objects, pooled."""

    batch: Batch
    encoding: Encoding
    regions: Float[Tensor, "B K D"]

    @classmethod
    def of(cls, segmenter: CrossViewModel, batch: Batch, encoding: Encoding) -> Sight:
        return cls(batch, encoding, segmenter.pool(encoding, batch.query, batch.query_masks))


@torch.inference_mode()
def segment(segmenter: CrossViewModel, batch: Batch, sizes: Sequence[tuple[int, int]]) -> list[Segmentation]:
    """Masks of every record's objects at the wanted (height, width), with scores, margins and likenesses in [0, 1].

    Each image is encoded once, each target image drawn on once, and what the language model reads up to the end of an
    image is read once for all records that ask for it.
    """
    sight = Sight.of(segmenter, batch, encode(segmenter, batch.images))
    reading = read(segmenter, sight)
    return choose(segmenter, sight, unroll(segmenter, sight), reading, sizes)


def encode(segmenter: CrossViewModel, images: UInt8[Tensor, "I 3 S S"]) -> Encoding:
    """`CrossViewModel.encode`, a few images at a time as long as they are large."""
    parts = [segmenter.see(part) for part in images.split(_at_once(segmenter))]
    features = tuple(torch.cat(level) for level in zip(*parts, strict=True))
    return Encoding(features, segmenter.projector(features[-1]))


def unroll(segmenter: CrossViewModel, sight: Sight) -> Canvas:
    """`CrossViewModel.unroll`, a few images at a time."""
    targets, own = sight.batch.distinct_targets()
    at_once = _at_once(segmenter)
    parts = [
        segmenter.pixel_decoder(tuple(level[targets[start : start + at_once]] for level in sight.encoding.features))
        for start in range(0, len(targets), at_once)
    ]
    scales = zip(*(memory for _, memory in parts), strict=True)
    # Place by place, as the pixel decoder left it and the mask decoder reads it.
    memory = tuple(torch.cat([x.permute(0, 2, 3, 1) for x in scale]).permute(0, 3, 1, 2) for scale in scales)
    return Canvas(torch.cat([features for features, _ in parts]), memory, tuple(own.tolist()))


def _at_once(segmenter: CrossViewModel) -> int:
    return max(1, PIXELS_AT_ONCE.get(segmenter.device.type, PIXELS_AT_ONCE["cuda"]) // segmenter.config.image_size**2)


def read(segmenter: CrossViewModel, sight: Sight) -> Reading:
    """`CrossViewModel.read` with less to read: the opening words once, then each target image once.

    A causal model's keys and values of a beginning do not depend on what follows, so records that begin alike can go
    on from the same ones.
    """
    language, batch, device = segmenter.language, sight.batch, sight.regions.device
    targets, own = batch.distinct_targets()
    opening = torch.tensor([batch.prompts[0].opening], device=device)  # (1, W)
    cache = DynamicCache(config=language.config)
    language(inputs_embeds=full(language.embed_tokens(opening)), past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(targets))
    language(inputs_embeds=full(sight.encoding.tokens[targets]), past_key_values=cache, use_cache=True)
    cache.batch_select_indices(own.to(device))
    begun = cache.get_seq_length()

    layout = lay_out(batch.prompts, 0, len(segmenter.mask_tokens)).after(opening.shape[1]).to(device)
    rest = segmenter.embed(layout, sight.encoding.tokens[list(batch.target), :0], sight.regions)  # (B, L, D)
    attended = torch.cat([layout.attended.new_ones(len(rest), begun), layout.attended], 1)
    hidden = language(inputs_embeds=rest, attention_mask=attended, past_key_values=cache, use_cache=True)
    return segmenter.interpret(hidden.last_hidden_state, layout)


def choose(
    segmenter: CrossViewModel, sight: Sight, canvas: Canvas, reading: Reading, sizes: Sequence[tuple[int, int]]
) -> list[Segmentation]:
    """Propose masks, give each object its own, and resize only those.

    All scores come to the CPU together, and so do all masks and all likenesses: a GPU is waited for three times. Raises
    an XsegError where a number left the range of the model's type.
    """
    batch = sight.batch
    _, given = segmenter.prepare(batch, reading)
    mask_logits, condition_logits = segmenter.mask_decoder.finish(canvas, *given)
    tables = []
    for b, count in enumerate(batch.num_objects):
        real = len(segmenter.mask_tokens) + count * segmenter.config.object_proposals
        tables.append(score_proposals(mask_logits[b, :real], condition_logits[b, :count, :real], batch.fits[b]))
    tables = _fetch(tables)
    _check_finite(segmenter, batch, tables)
    chosen = [assign(table) for table in tables]
    masks = [
        _resize(mask_logits[b], own, batch.fits[b], hw) for b, (own, hw) in enumerate(zip(chosen, sizes, strict=True))
    ]
    alike = compare(segmenter, sight, mask_logits, chosen)  # (B, K)
    likenesses = _fetch([row[:count] for row, count in zip(alike, batch.num_objects, strict=True)])
    _check_finite(segmenter, batch, likenesses)
    return [
        Segmentation(mask, table[torch.arange(len(own)), torch.from_numpy(own)], margins(table, own), likeness, own)
        for mask, table, likeness, own in zip(_fetch(masks), tables, likenesses, chosen, strict=True)
    ]


def _check_finite(segmenter: CrossViewModel, batch: Batch, rated: Sequence[Tensor]) -> None:
    """Refuse what rates a record's answers where it is no number; an XsegError names the record."""
    for own, name in zip(rated, batch.names, strict=True):
        if not own.isfinite().all():
            half = segmenter.dtype == torch.float16
            remedy = "Their range is wider in bfloat16" if half else "The checkpoint's weights may be broken"
            raise XsegError("scores are not finite", where=name, remedy=remedy)


def compare(
    segmenter: CrossViewModel,
    sight: Sight,
    mask_logits: Float[Tensor, "B N h w"],
    chosen: Sequence[Int64[np.ndarray, " _"]],
) -> Float[Tensor, "B K"]:
    """How alike an object and its answer look: (1 + the cosine of what is seen under both masks) / 2.

    This is what contrastive alignment makes large for two views of one object and small for others; an object that is
    hidden has an answer that looks like something else. Rows beyond a record's objects mean nothing.
    """
    places = torch.zeros(sight.regions.shape[:2], dtype=torch.int64)
    for row, own in zip(places, chosen, strict=True):
        row[: len(own)] = torch.from_numpy(own)
    places = places.to(mask_logits.device, non_blocking=True)
    masks = mask_logits.gather(1, places[..., None, None].expand(-1, -1, *mask_logits.shape[-2:])) > 0  # (B, K, h, w)
    for own, fit in zip(masks, sight.batch.fits, strict=True):
        height, width = fit.on(mask_logits.shape[-1])
        own[:, height:], own[:, :, width:] = False, False
    answers = segmenter.pool(sight.encoding, sight.batch.target, masks)
    return ((1 + F.cosine_similarity(sight.regions.float(), answers.float(), dim=-1)) / 2).clamp(0, 1)


def _resize(
    mask_logits: Float[Tensor, "N h w"], proposals: Int64[np.ndarray, " K"], fit: Fit, hw: tuple[int, int]
) -> Bool[Tensor, "K H W"]:
    """The chosen proposals' masks at the wanted size; of large ones a few at a time."""
    places = torch.from_numpy(proposals).to(mask_logits.device, non_blocking=True)
    parts = places.split(max(1, RESIZED_AT_ONCE // (hw[0] * hw[1])))
    return torch.cat([binarise(unfit(mask_logits[part], fit, hw)) for part in parts])


def _fetch(parts: Sequence[Tensor]) -> list[Tensor]:
    """Bring tensors to the CPU in one piece."""
    whole = torch.cat([part.flatten() for part in parts]).cpu()
    return [
        own.view(part.shape) for own, part in zip(whole.split([part.numel() for part in parts]), parts, strict=True)
    ]
