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
