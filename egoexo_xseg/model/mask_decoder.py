"""From mask embeddings to masks: attention to memory, each proposal looking only where it last saw its mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from egoexo_xseg.model.positions import sine_positions
from egoexo_xseg.model.precision import LayerNorm, Linear, full, linear

NUM_SCALES = 3
"""Layers take turns in reading the three memory maps."""

Groups = list[tuple[slice, slice | Int64[Tensor, " _"]]]
"""Images and the records that read them: each image by itself, or all at once where no two records share one."""


@dataclass(frozen=True)
class Canvas:
    """What masks are drawn on: images after the pixel decoder, at stride 4 and as memory; `own` is each record's."""

    mask_features: Float[Tensor, "I M h w"]
    memory: tuple[Float[Tensor, "I C _ _"], ...]
    own: tuple[int, ...]

    def groups(self) -> Groups:
        if self.own == tuple(range(len(self.mask_features))):
            return [(slice(None), slice(None))]
        readers = {image: [b for b, own in enumerate(self.own) if own == image] for image in sorted(set(self.own))}
        return [
            (slice(image, image + 1), torch.tensor(records, device=self.mask_features.device))
            for image, records in readers.items()
        ]

    def size(self, scale: int) -> tuple[int, int]:
        height, width = self.memory[scale].shape[-2:]
        return height, width


def by_image(work: Callable[[slice, slice | Tensor], Tensor], groups: Groups) -> Float[Tensor, "..."]:
    """What `work` makes of each group's images and records, in the order of the records."""
    parts = [work(*group) for group in groups]
    if len(parts) == 1:
        return parts[0]
    whole = parts[0].new_empty(sum(map(len, parts)), *parts[0].shape[1:])
    for (_, records), part in zip(groups, parts, strict=True):
        whole.index_copy_(0, records, part)
    return whole


def draw(
    embeddings: Float[Tensor, "B N M"], features: Float[Tensor, "I M h w"], groups: Groups
) -> Float[Tensor, "B N h w"]:
    """How well each place of its image fits each embedding; all of an image's records are drawn as one product."""
    embeddings, features = full(embeddings), full(features)

    def work(images: slice, records: slice | Tensor) -> Float[Tensor, "R N h w"]:
        own, asked = features[images].flatten(2), embeddings[records]
        drawn = asked.reshape(len(own), -1, asked.shape[-1]) @ own  # (images, R*N, h*w)
        return drawn.view(*asked.shape[:2], *features.shape[2:])

    return by_image(work, groups)


class Level(NamedTuple):
    """What is proposed before or after a layer: masks, and how well each answers each condition."""

    mask_logits: Float[Tensor, "B N h w"]
    condition_logits: Float[Tensor, "B K N"]


class Attention(nn.Module):
    """Multi-head attention with the parameters of `nn.MultiheadAttention`, computed by torch's fused kernels."""

    def __init__(self, hidden_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * hidden_dim, hidden_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * hidden_dim))
        self.out_proj = Linear(hidden_dim, hidden_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        q: Float[Tensor, "B N C"],
        k: Float[Tensor, "I T C"],
        v: Float[Tensor, "I T C"],
        attended: Bool[Tensor, "B 1 #N T"] | None = None,
        groups: Groups | None = None,
    ) -> Float[Tensor, "B N C"]:
        """`attended` tells what each query may look at; every query needs something.

        `groups` tell whose keys and values each record reads: an image's are projected once, and read by the queries
        of all its records in a row. Without them, each record has its own.
        """
        parts = zip((q, k, v), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        q, k, v = (linear(x, weight, bias) for x, weight, bias in parts)
        if groups is None:
            return self.out_proj(self._attend(q, k, v, attended))

        def work(images: slice, records: slice | Tensor) -> Float[Tensor, "R N C"]:
            own, asked, seen = k[images], q[records], attended[records]
            in_a_row = asked.reshape(len(own), -1, asked.shape[-1])  # (images, R*N, C)
            seen = seen.reshape(len(own), 1, -1, seen.shape[-1])  # (images, 1, R*N, T)
            return self._attend(in_a_row, own, v[images], seen).view_as(asked)

        return self.out_proj(by_image(work, groups))

    def _attend(
        self,
        q: Float[Tensor, "B N C"],
        k: Float[Tensor, "B T C"],
        v: Float[Tensor, "B T C"],
        attended: Bool[Tensor, "B 1 #N T"] | None,
    ) -> Float[Tensor, "B N C"]:
        q, k, v = (self._split_heads(x) for x in (q, k, v))
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=attended)  # (B, heads, N, d)
        return x.transpose(1, 2).flatten(2)

    def _split_heads(self, x: Float[Tensor, "B X C"]) -> Float[Tensor, "B heads X d"]:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class CrossAttentionLayer(nn.Module):
    """Proposals read from a memory map."""

    def __init__(self, hidden_dim: int, num_heads: int) -> None:
        super().__init__()
        self.multihead_attn = Attention(hidden_dim, num_heads)
        self.norm = LayerNorm(hidden_dim)

    def forward(
        self,
        x: Float[Tensor, "B N C"],
        order: Float[Tensor, "N C"],
        memory: tuple[Float[Tensor, "I T C"], Float[Tensor, "T C"]],
        attended: Bool[Tensor, "B 1 N T"],
        groups: Groups,
    ) -> Float[Tensor, "B N C"]:
        """`memory` is what is read, and where it lies; `groups` tell which image's each record reads."""
        values, positions = memory
        return self.norm(x + self.multihead_attn(x + order, values + positions, values, attended, groups))


class SelfAttentionLayer(nn.Module):
    """Proposals read from each other."""

    def __init__(self, hidden_dim: int, num_heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(hidden_dim, num_heads)
        self.norm = LayerNorm(hidden_dim)

    def forward(
        self, x: Float[Tensor, "B N C"], order: Float[Tensor, "N C"], attended: Bool[Tensor, "B 1 1 N"] | None
    ) -> Float[Tensor, "B N C"]:
        return self.norm(x + self.self_attn(x + order, x + order, x, attended))


class FeedForwardLayer(nn.Module):
    """Proposals think."""

    def __init__(self, hidden_dim: int, feedforward_dim: int) -> None:
        super().__init__()
        self.linear1 = Linear(hidden_dim, feedforward_dim)
        self.linear2 = Linear(feedforward_dim, hidden_dim)
        self.norm = LayerNorm(hidden_dim)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        return self.norm(x + self.linear2(F.relu(self.linear1(x))))


class Mlp(nn.Module):
    """Linear layers with a ReLU between each two."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N M"]:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class MaskDecoder(nn.Module):
    """Mask embeddings to mask logits and condition logits, predicted anew before the first and after every layer."""

    def __init__(
        self,
        hidden_dim: int,
        mask_dim: int,
        num_heads: int,
        num_layers: int,
        feedforward_dim: int,
        num_queries: int,
    ) -> None:
        super().__init__()
        layers = range(num_layers)
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(hidden_dim, num_heads) for _ in layers
        )
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(hidden_dim, num_heads) for _ in layers
        )
        self.transformer_ffn_layers = nn.ModuleList(FeedForwardLayer(hidden_dim, feedforward_dim) for _ in layers)
        self.decoder_norm = LayerNorm(hidden_dim)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.level_embed = nn.Embedding(NUM_SCALES, hidden_dim)
        self.mask_embed = Mlp(hidden_dim, hidden_dim, hidden_dim, mask_dim)
        self.REGION_proj = Mlp(hidden_dim, hidden_dim, hidden_dim)

    def forward(
        self,
        canvas: Canvas,
        mask_embeddings: Float[Tensor, "B N C"],
        condition_embeddings: Float[Tensor, "B K C"],
        real: Bool[Tensor, "B N"] | None = None,
    ) -> list[Level]:
        """All levels, the final one last; each is needed to know where the next layer looks.

        `mask_embeddings` beyond `num_queries` have no learnt place in the order; those that are not `real` are padding,
        which the others do not see.
        """
        given = (canvas.mask_features, canvas.groups(), condition_embeddings)
        levels = [self.predict(mask_embeddings, *given)]

        def look(_: Float[Tensor, "B N C"], scale: int) -> Bool[Tensor, "B 1 N T"]:
            return where_to_look(levels[-1].mask_logits, canvas.size(scale))

        for x in self._refine(canvas, mask_embeddings, real, look):
            levels.append(self.predict(x, *given))
        return levels

    def finish(
        self,
        canvas: Canvas,
        mask_embeddings: Float[Tensor, "B N C"],
        condition_embeddings: Float[Tensor, "B K C"],
        real: Bool[Tensor, "B N"] | None = None,
    ) -> Level:
        """The final level alone, at a fraction of the cost: no masks are drawn large only to be shrunk.

        A mask is linear in the mask features, and so is resizing: shrunk features draw what shrinking a mask leaves.
        """
        groups = canvas.groups()
        shrunk = [resize(canvas.mask_features, canvas.size(scale)) for scale in range(NUM_SCALES)]

        def look(x: Float[Tensor, "B N C"], scale: int) -> Bool[Tensor, "B 1 N T"]:
            return inside(draw(self.mask_embed(self.decoder_norm(x)), shrunk[scale], groups))

        for last in self._refine(canvas, mask_embeddings, real, look):
            x = last
        return self.predict(x, canvas.mask_features, groups, condition_embeddings)

    def _refine(
        self,
        canvas: Canvas,
        x: Float[Tensor, "B N C"],
        real: Bool[Tensor, "B N"] | None,
        look: Callable[[Float[Tensor, "B N C"], int], Bool[Tensor, "B 1 N T"]],
    ) -> Iterator[Float[Tensor, "B N C"]]:
        """The proposals after each layer; `look` tells what they attend to of a scale, as they are before it."""
        x = full(x)
        scales, groups = self._remember(canvas.memory), canvas.groups()
        order = self.query_embed.weight  # (N, C)
        order = F.pad(order, (0, 0, 0, x.shape[1] - len(order)))
        seen = None if real is None else real[:, None, None]  # (B, 1, 1, N)
        layers = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        for depth, (read, confer, think) in enumerate(layers):
            scale = depth % NUM_SCALES
            x = think(confer(read(x, order, scales[scale], look(x, scale), groups), order, seen))
            yield x

    def _remember(
        self, memory: Sequence[Float[Tensor, "I C _ _"]]
    ) -> list[tuple[Float[Tensor, "I _ C"], Float[Tensor, "_ C"]]]:
        """Each map as (values, positions), one row per place."""
        scales = []
        for scale, own in zip(memory, self.level_embed.weight, strict=True):
            positions = sine_positions((scale.shape[2], scale.shape[3]), scale.shape[1], scale.device)
            scales.append((scale.flatten(2).transpose(1, 2) + own, positions.to(scale.dtype)))  # (I, T, C), (T, C)
        return scales

    def predict(
        self,
        x: Float[Tensor, "B N C"],
        mask_features: Float[Tensor, "I M h w"],
        groups: Groups,
        conditions: Float[Tensor, "B K C"],
    ) -> Level:
        """Masks and condition logits, both plain dot products."""
        x = self.decoder_norm(x)
        mask_logits = draw(self.mask_embed(x), mask_features, groups)
        return Level(
            mask_logits, full(conditions) @ full(self.REGION_proj(x)).transpose(1, 2)
        )  # (B, N, h, w), (B, K, N)


@torch.no_grad()
def where_to_look(mask_logits: Float[Tensor, "B N H W"], hw: tuple[int, int]) -> Bool[Tensor, "B 1 N T"]:
    """The places of a memory map inside each proposal's mask, or all of them where that would be none."""
    return inside(resize(mask_logits, hw))


def resize(maps: Float[Tensor, "B C H W"], hw: tuple[int, int]) -> Float[Tensor, "B C h w"]:
    """Bilinearly, each channel as an image of its own: many channels of one image take torch's slow way when shrunk."""
    resized = F.interpolate(maps.flatten(0, 1)[:, None], size=hw, mode="bilinear", align_corners=False)
    return resized.view(*maps.shape[:2], *hw)


def inside(mask_logits: Float[Tensor, "B N h w"]) -> Bool[Tensor, "B 1 N T"]:
    """The places more likely in each mask than out, or all of them where that would be none."""
    likely = (mask_logits >= 0).flatten(2)[:, None]  # (B, 1, N, T)
    return likely | ~likely.any(-1, keepdim=True)
