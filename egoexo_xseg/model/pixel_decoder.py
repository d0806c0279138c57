"""From the image tower's maps to mask features and memory: multi-scale deformable attention in plain torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from egoexo_xseg.model.positions import sine_positions
from egoexo_xseg.model.precision import Conv2d, GroupNorm, LayerNorm, Linear, full, linear

Sizes = Sequence[tuple[int, int]]
"""(height, width) of each of S maps whose places lie one after the other, row by row: T places in all."""

NUM_LEVELS = 3
"""Strides 32, 16 and 8 exchange what they know; stride 4 only receives."""


def sample_by_grid(
    values: Float[Tensor, "B T heads d"],
    sizes: Sizes,
    places: Float[Tensor, "B L heads S P 2"],
    weights: Float[Tensor, "B L heads S P"],
) -> Float[Tensor, "B L heads*d"]:
    """Weighted sum of bilinear samples, zero outside, through `grid_sample`, one map after the other.

    `places` are (x, y) in pixels of their map, 0 the centre of the first. The same function as `sample_by_gather`.
    """
    B, _, heads, d = values.shape
    _, L, _, _, P, _ = places.shape
    total = values.new_zeros(B * heads, d, L)
    start = 0
    for level, (H, W) in enumerate(sizes):
        level_map = values[:, start : start + H * W].permute(0, 2, 3, 1).reshape(B * heads, d, H, W)
        start += H * W
        x, y = places[..., level, :, :].transpose(1, 2).reshape(B * heads, L, P, 2).unbind(-1)
        grid = torch.stack([(2 * x + 1) / W - 1, (2 * y + 1) / H - 1], -1)  # -1..1 between the outer edges
        # In half precision the grid would not tell neighbours apart, and values must have the grid's type.
        sampled = F.grid_sample(level_map.to(grid.dtype), grid, align_corners=False)  # (B*heads, d, L, P)
        share = weights[..., level, :].transpose(1, 2).reshape(B * heads, 1, L, P)
        total = total + (sampled * share).sum(-1).to(values.dtype)
    return total.view(B, heads * d, L).transpose(1, 2)  # (B, L, heads*d)


def sample_by_gather(
    values: Float[Tensor, "B T heads d"],
    sizes: Sizes,
    places: Float[Tensor, "B L heads S P 2"],
    weights: Float[Tensor, "B L heads S P"],
) -> Float[Tensor, "B L heads*d"]:
    """The same function as `sample_by_grid`, as one weighted gather over maps, points and their four neighbours.

    On a CPU some eight times faster: nothing is sampled only to be weighted afterwards, and arithmetic runs over long
    rows, in each of which a point's column tells its map and head.
    """
    B, _, heads, d = values.shape
    _, L, _, S, P, _ = places.shape
    # Zeros around each map, two behind it: a place clamped to them finds its four neighbours there, and no share.
    maps = values.split([H * W for H, W in sizes], 1)
    maps = [F.pad(own.view(B, *hw, heads * d), (0, 0, 1, 2, 1, 2)) for own, hw in zip(maps, sizes, strict=True)]
    table = torch.cat([own.flatten(1, 2) for own in maps], 1)  # (B, cells, heads*d)
    widths, heights, steps, first = columns(tuple(sizes), heads, P, places.device)  # 4 x (heads*S*P)
    first = first + torch.arange(B, device=places.device)[:, None, None] * (table.shape[1] * heads)
    x, y = (place.reshape(B, L, -1).clamp(min=-1) for place in places.unbind(-1))  # 2 x (B, L, heads*S*P)
    x, y = x.minimum(widths.to(x.dtype)), y.minimum(heights.to(y.dtype))
    left, top = x.floor(), y.floor()
    # 32 bits hold the table's rows and halve the traffic; a place that is no number must stay within it, too.
    upper = (top.int() * steps).add_(left.int(), alpha=heads).add_(first.int())
    upper = upper.clamp_(torch.zeros_like(steps), table.numel() // d - 1 - heads - steps)
    lower = upper + steps
    x, y, weights = x.sub_(left), y.sub_(top), weights.reshape(B, L, -1)
    below = weights * y
    above = weights - below
    below_right, above_right = below * x, above * x
    rows = (upper, upper + heads, lower, lower + heads)
    shares = (above - above_right, above_right, below - below_right, below_right)
    gathered = F.embedding_bag(
        torch.cat([own.view(-1, S * P) for own in rows], 1),  # (B*L*heads, 4*S*P)
        table.view(-1, d),
        per_sample_weights=torch.cat([own.view(-1, S * P) for own in shares], 1).to(values.dtype),
        mode="sum",
    )
    return gathered.view(B, L, heads * d)


@lru_cache(maxsize=8)
def columns(
    sizes: tuple[tuple[int, int], ...], heads: int, points: int, device: torch.device
) -> Int[Tensor, "4 points_of_all"]:
    """For each of a place's points: its map's width and height, and in the table of `sample_by_gather` the rows from
    one line to the next and the row of the map's first cell."""
    with torch.inference_mode(False):
        levels, start = [], 0
        for H, W in sizes:
            levels.append((W, H, (W + 3) * heads, (start + W + 3 + 1) * heads))
            start += (H + 3) * (W + 3)
        table = torch.tensor(levels, dtype=torch.int32, device=device).T[:, None, :, None]  # (4, 1, S, 1)
        table = table.repeat(1, heads, 1, points)  # (4, heads, S, P)
        table[3] += torch.arange(heads, dtype=torch.int32, device=device)[:, None, None]
        return table.flatten(1)


class DeformableAttention(nn.Module):
    """Each place attends to a few points, chosen by itself, around its own position on every map."""

    def __init__(self, hidden_dim: int, num_heads: int, num_points: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_points = num_points
        points = num_heads * NUM_LEVELS * num_points
        self.sampling_offsets = Linear(hidden_dim, 2 * points)
        self.attention_weights = Linear(hidden_dim, points)
        self.value_proj = Linear(hidden_dim, hidden_dim)
        self.output_proj = Linear(hidden_dim, hidden_dim)
        self._reset()

    def _reset(self) -> None:
        """Deformable DETR's start: each head looks its own way, each point one pixel further, all alike in weight."""
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        way = torch.stack([angle.cos(), angle.sin()], -1)  # (heads, 2)
        way = way / way.abs().amax(-1, keepdim=True)
        reach = torch.arange(1, self.num_points + 1)[:, None]
        offsets = (way[:, None, None] * reach).expand(-1, NUM_LEVELS, -1, -1)  # (heads, S, P, 2)
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, queries: Float[Tensor, "B T C"], x: Float[Tensor, "B T C"], sizes: Sizes
    ) -> Float[Tensor, "B T C"]:
        """`queries` are `x` with positions; they choose the points, `x` gives what is read there."""
        B, T, C = x.shape
        values = full(self.value_proj(x)).view(B, T, self.num_heads, -1)  # (B, T, heads, d)
        # All x before all y, so that arithmetic runs over whole rows of either.
        weight, bias = self.sampling_offsets.weight.view(-1, 2, C), self.sampling_offsets.bias.view(-1, 2)
        offsets = linear(queries, weight.transpose(0, 1).flatten(0, 1), bias.T.flatten())
        offsets = offsets.view(B, T, 2, self.num_heads, NUM_LEVELS, self.num_points)
        exact = torch.promote_types(x.dtype, torch.float32)  # half precision has no room for places on a large map
        places = own_places(tuple(sizes), exact, x.device).transpose(1, 2)[:, :, None, :, None] + offsets
        weights = self.attention_weights(queries).view(B, T, self.num_heads, -1).to(exact)
        weights = weights.transpose(2, 3).contiguous().softmax(2).transpose(2, 3)  # short last axes are slow
        weights = weights.view(B, T, self.num_heads, NUM_LEVELS, self.num_points)
        places = places.movedim(2, -1)  # (B, T, heads, S, P, 2)
        # On a CPU the gather is faster forwards, and slower backwards.
        gathers = x.device.type == "cpu" and not torch.is_grad_enabled()
        sample = sample_by_gather if gathers else sample_by_grid
        return self.output_proj(sample(values, sizes, places, weights))


@lru_cache(maxsize=8)
def own_places(sizes: tuple[tuple[int, int], ...], dtype: torch.dtype, device: torch.device) -> Float[Tensor, "T S 2"]:
    """Where each place of all maps lies on each map, as (x, y) in that map's pixels; made once, on the device."""
    with torch.inference_mode(False):
        centres = []
        for H, W in sizes:
            y = (torch.arange(H, dtype=dtype, device=device) + 0.5) / H
            x = (torch.arange(W, dtype=dtype, device=device) + 0.5) / W
            centres.append(torch.stack([x.expand(H, W), y[:, None].expand(H, W)], -1).flatten(0, 1))  # (H*W, 2)
        x, y = torch.cat(centres).unbind(-1)  # (T,)
        return torch.stack([torch.stack([x * W - 0.5, y * H - 0.5], -1) for H, W in sizes], 1)  # (T, S, 2)


class EncoderLayer(nn.Module):
    """Deformable attention and an MLP, each followed by its norm."""

    def __init__(self, hidden_dim: int, num_heads: int, feedforward_dim: int, num_points: int) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(hidden_dim, num_heads, num_points)
        self.norm1 = LayerNorm(hidden_dim)
        self.linear1 = Linear(hidden_dim, feedforward_dim)
        self.linear2 = Linear(feedforward_dim, hidden_dim)
        self.norm2 = LayerNorm(hidden_dim)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(
        self, x: Float[Tensor, "B T C"], positions: Float[Tensor, "T C"], sizes: Sizes
    ) -> Float[Tensor, "B T C"]:
        x = self.norm1(x + self.self_attn(x + positions, x, sizes))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x), inplace=True)))


class Encoder(nn.Module):
    """The layers, one after the other."""

    def __init__(self, num_layers: int, hidden_dim: int, num_heads: int, feedforward_dim: int, num_points: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(hidden_dim, num_heads, feedforward_dim, num_points) for _ in range(num_layers)
        )


class DeformableTransformer(nn.Module):
    """Lets every place of the maps read from all of them."""

    def __init__(self, encoder: Encoder, hidden_dim: int) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.randn(NUM_LEVELS, hidden_dim))
        self.encoder = encoder

    def forward(self, maps: Sequence[Float[Tensor, "B C _ _"]]) -> tuple[Float[Tensor, "B C _ _"], ...]:
        C = maps[0].shape[1]
        sizes = [(level.shape[2], level.shape[3]) for level in maps]
        x = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], 1)  # (B, T, C)
        codes = [sine_positions(hw, C, x.device).to(x.dtype) for hw in sizes]
        positions = torch.cat([code + own for code, own in zip(codes, self.level_embed, strict=True)])  # (T, C)
        for layer in self.encoder.layers:
            x = layer(x, positions, sizes)
        parts = x.split([H * W for H, W in sizes], 1)
        return tuple(part.transpose(1, 2).unflatten(2, hw) for part, hw in zip(parts, sizes, strict=True))


class PixelDecoder(nn.Module):
    """Four maps of the image tower to mask features at stride 4 and the mask decoder's memory, coarsest first."""

    def __init__(
        self,
        in_channels: Sequence[int],
        hidden_dim: int,
        mask_dim: int,
        num_heads: int,
        num_layers: int,
        feedforward_dim: int,
        num_points: int = 4,
    ) -> None:
        super().__init__()
        finest, *coarser = in_channels
        self.input_proj = nn.ModuleList(
            nn.Sequential(_convolution(channels, hidden_dim, 1), GroupNorm(32, hidden_dim))
            for channels in reversed(coarser)
        )
        encoder = Encoder(num_layers, hidden_dim, num_heads, feedforward_dim, num_points)
        self.transformer = DeformableTransformer(encoder, hidden_dim)
        # The ReLU after the lateral projection is the released code's own; Mask2Former has none there.
        self.adapter_1 = nn.Sequential(_convolution(finest, hidden_dim, 1), GroupNorm(32, hidden_dim), nn.ReLU(True))
        self.layer_1 = nn.Sequential(_convolution(hidden_dim, hidden_dim, 3), GroupNorm(32, hidden_dim), nn.ReLU(True))
        self.mask_features = _convolution(hidden_dim, mask_dim, 1)

    def forward(
        self, features: tuple[Float[Tensor, "B _ _ _"], ...]
    ) -> tuple[Float[Tensor, "B M h w"], tuple[Float[Tensor, "B C _ _"], ...]]:
        """Mask features, and memory at strides 32, 16 and 8."""
        finest, *coarser = features
        projected = [project(x) for project, x in zip(self.input_proj, reversed(coarser), strict=True)]
        memory = self.transformer(projected)  # 3 x (B, C, h_s, w_s)
        lateral = self.adapter_1(finest)  # (B, C, h, w)
        coarse = memory[-1].contiguous()  # a part of all memory, which would be enlarged slowly
        coarse = F.interpolate(coarse, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        return full(self.mask_features(self.layer_1(lateral + coarse))), memory


def _convolution(in_channels: int, out_channels: int, size: int) -> nn.Conv2d:
    convolution = Conv2d(in_channels, out_channels, size, padding=size // 2)
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return convolution
