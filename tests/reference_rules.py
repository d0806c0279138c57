"""What the released code does by accident, kept for comparison: the model itself has better rules."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def sample_regions(tokens, grid, points):
    """Mean feature at given points (y, x) in [0, 1) of each object: (T, D) tokens to (K, D) features."""
    maps = tokens.T.unflatten(1, grid)[None]  # (1, D, h, w)
    means = []
    for own in points:
        places = own.flip(-1)[None, None] * 2 - 1  # (1, 1, P, 2), x first
        means.append(F.grid_sample(maps, places.float(), align_corners=True)[0, :, 0].mean(-1))
    return torch.stack(means)


def full_size_scores(mask_logits, condition_logits, fit, hw):
    """Logits (N, H, W) and scores (K, N), each mask's certainty taken at the record's full size."""
    side = (fit.side, fit.side)
    square = F.interpolate(mask_logits[None], side, mode="bilinear", align_corners=False)
    image = square[..., : fit.fitted_hw[0], : fit.fitted_hw[1]]
    logits = F.interpolate(image, hw, mode="bilinear", align_corners=False)[0]
    masks = logits > 0
    certainty = (logits.sigmoid() * masks).flatten(1).sum(1) / (masks.flatten(1).sum(1) + 1e-6)
    return logits, condition_logits.sigmoid() * certainty


def pick_greedily(scores):
    """In list order, each object takes the best of its ten best proposals that nobody took before.

    Where all ten are taken, the previous object's proposal is used again.
    """
    picked: list[int] = []
    for row in scores:
        best = row.topk(min(10, len(row))).indices.tolist()
        free = [proposal for proposal in best if proposal not in picked]
        picked.append(free[0] if free else picked[-1])
    return picked


def label_map(masks, picked, labels):
    """One label per pixel; later objects paint over earlier ones."""
    image = torch.zeros(masks.shape[1:], dtype=torch.uint8)
    for proposal, label in zip(picked, labels, strict=True):
        image[masks[proposal]] = label
    return image


def plain_attention(q, k, v, attn_mask=None, *_args, **_options):
    """Attention as written out in the released code, in place of a fused kernel that rounds differently."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill(~attn_mask, float("-inf"))
        scores = scores + attn_mask
    return scores.softmax(-1) @ v


def plain_deformable_attention(self, queries, x, sizes, nudge=0.0):
    """`DeformableAttention.forward` by Deformable DETR's formula: places in 0..1, each map read by `grid_sample`.

    `nudge`: how many pixels to the right and down all places are moved.
    """
    batch, length, width = x.shape
    heads, levels, points = self.num_heads, len(sizes), self.num_points
    values = self.value_proj(x).view(batch, length, heads, width // heads)
    offsets = self.sampling_offsets(queries).view(batch, length, heads, levels, points, 2) + nudge
    weights = self.attention_weights(queries).view(batch, length, heads, levels * points).softmax(-1)
    centres = []
    for h, w in sizes:
        y, x_ = torch.meshgrid(torch.linspace(0.5, h - 0.5, h), torch.linspace(0.5, w - 0.5, w), indexing="ij")
        centres.append(torch.stack((x_.reshape(-1) / w, y.reshape(-1) / h), -1))
    own = torch.cat(centres)[None, :, None, None, None]  # (1, T, 1, 1, 1, 2)
    grids = 2 * (own + offsets / torch.tensor([[w, h] for h, w in sizes])[:, None]) - 1
    read = []
    for level, (part, (h, w)) in enumerate(zip(values.split([h * w for h, w in sizes], 1), sizes, strict=True)):
        level_map = part.flatten(2).transpose(1, 2).reshape(batch * heads, width // heads, h, w)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
        read.append(F.grid_sample(level_map, grid, align_corners=False))
    weights = weights.transpose(1, 2).reshape(batch * heads, 1, length, levels * points)
    total = (torch.stack(read, -2).flatten(-2) * weights).sum(-1).view(batch, width, length)
    return self.output_proj(total.transpose(1, 2).contiguous())
