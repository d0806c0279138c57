"""Which proposal answers for which object, and how surely."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from egoexo_xseg.model.inputs import Fit


def score_proposals(
    mask_logits: Float[Tensor, "N h w"], condition_logits: Float[Tensor, "K N"], fit: Fit
) -> Float[Tensor, "K N"]:
    """Probability that proposal n is object k, times how sure the proposal is of its own pixels; within [0, 1].

    The reference takes the second factor at the image's full size, for every proposal; here it is taken on the
    decoder's own map within the unpadded area, so that only the chosen proposals are ever resized. What is not a number
    stays so: the reference takes it for 0, and answers with anything.
    """
    height, width = fit.on(mask_logits.shape[-1])
    return condition_logits.float().sigmoid() * mask_sureness(mask_logits[:, :height, :width])  # (K, N)


def mask_sureness(mask_logits: Float[Tensor, "N h w"]) -> Float[Tensor, " N"]:
    """Mean probability over the pixels that are more likely in than out; 0 for a mask without any."""
    logits = mask_logits.float()
    inside = logits > 0
    return (logits.sigmoid() * inside).sum((-2, -1)) / (inside.sum((-2, -1)) + 1e-6)


def assign(scores: Float[Tensor, "K N"]) -> Int64[np.ndarray, " K"]:
    """A proposal for each object, no two alike, with the largest total score.

    The reference lets objects choose in list order, so that its answer depends on that order. Objects beyond the
    number of proposals take their own best one.
    """
    table = scores.detach().cpu().numpy().astype(np.float64)
    chosen = table.argmax(1)
    objects, proposals = linear_sum_assignment(table, maximize=True)
    chosen[objects] = proposals
    return chosen


def margins(scores: Float[Tensor, "K N"], chosen: Int64[np.ndarray, " K"]) -> Float[Tensor, " K"]:
    """Lead of each object's chosen proposal over its best other one, within [0, 1]."""
    rows, columns = torch.arange(len(chosen)), torch.from_numpy(chosen)
    others = scores.clone()
    others[rows, columns] = 0
    return (scores[rows, columns] - others.amax(1)).clamp(0, 1)


def binarise(logits: Float[Tensor, "K H W"]) -> Bool[Tensor, "K H W"]:
    """Pixels more likely in than out; never an empty mask, which could only lose points.

    Where no pixel passes, the most likely one stands with its neighbours up to a hundredth of the long side.
    """
    masks = logits > 0
    height, width = logits.shape[-2:]
    reach = max(height, width) // 100
    peak = logits.flatten(1).argmax(1)[:, None]  # (K, 1)
    rows = (torch.arange(height, device=logits.device) - peak // width).abs() <= reach  # (K, H)
    columns = (torch.arange(width, device=logits.device) - peak % width).abs() <= reach  # (K, W)
    empty = ~masks.flatten(1).any(1)
    return masks | (rows & empty[:, None])[:, :, None] & columns[:, None]
