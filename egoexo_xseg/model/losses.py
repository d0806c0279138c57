"""What training minimises: matched mask, dice and condition losses at every level, and cross-view alignment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from egoexo_xseg.model.mask_decoder import Level

Draw = Callable[..., Tensor]
"""`draw(*shape)` gives uniform numbers in [0, 1); tests replay recorded ones."""


@dataclass(frozen=True)
class Targets:
    """The truth of a batch: which of its K rows are objects at all, which are visible, and their masks."""

    masks: Shaped[Tensor, "B K H W"]
    present: Bool[Tensor, "B K"]
    visible: Bool[Tensor, "B K"]

    def on_cells(self, hw: tuple[int, int]) -> Targets:
        """The same with masks on another grid: the share of each cell that an object covers."""
        if self.masks.shape[-2:] == hw:
            return self
        return replace(self, masks=F.interpolate(self.masks.float(), hw, mode="area"))


class Matching(NamedTuple):
    """Which proposal of which record stands for which object, record by record, in ascending order of proposals."""

    records: Int64[Tensor, " M"]
    proposals: Int64[Tensor, " M"]
    objects: Int64[Tensor, " M"]


@dataclass(frozen=True)
class LossConfig:
    """Weights and samples of the released recipe (Mask2Former's, less its class loss)."""

    mask_weight: float = 5.0
    dice_weight: float = 5.0
    condition_weight: float = 2.0
    num_points: int | None = 12544  # 112 x 112, as in Mask2Former; None: the mask map's own cells
    oversample: float = 3.0  # candidates per point, of which the most uncertain are kept
    importance: float = 0.75  # share of the points that are chosen by uncertainty


def sample_points(maps: Float[Tensor, "B C h w"], points: Float[Tensor, "B P 2"]) -> Float[Tensor, "B C P"]:
    """Bilinear values at points (x, y) in [0, 1], pixel centres at (i + 0.5) / size, zeros outside."""
    grid = (2 * points - 1)[:, None]  # (B, 1, P, 2)
    return F.grid_sample(maps, grid, align_corners=False)[:, :, 0]  # (B, C, P)


@torch.no_grad()
@torch.autocast("cuda", enabled=False)
def match(logits: Float[Tensor, "B N P"], labels: Float[Tensor, "B K P"], visible: Bool[Tensor, "B K"]) -> Matching:
    """Hungarian matching of proposals to visible objects by 5 BCE + 5 dice at shared places (the reference's cost)."""
    logits, labels = logits.float(), labels.mT.float()  # (B, N, P), (B, P, K)
    bce = (F.softplus(-logits) @ labels + F.softplus(logits) @ (1 - labels)) / logits.shape[-1]  # (B, N, K)
    inside = logits.sigmoid()
    dice = 1 - (2 * inside @ labels + 1) / (inside.sum(-1)[..., None] + labels.sum(-2)[:, None] + 1)  # (B, N, K)
    costs = (5 * bce + 5 * dice).nan_to_num(nan=0.0, posinf=1.0).cpu().numpy()
    rows = []
    for record, (cost, seen) in enumerate(zip(costs, visible.cpu().numpy(), strict=True)):
        objects = seen.nonzero()[0]
        proposals, own = linear_sum_assignment(cost[:, objects])
        rows.append(np.stack([np.full_like(own, record), proposals, objects[own]]))
    return Matching(*torch.from_numpy(np.concatenate(rows, 1)).to(logits.device))


@torch.no_grad()
def uncertain_points(logits: Float[Tensor, "M h w"], config: LossConfig, draw: Draw) -> Float[Tensor, "M P 2"]:
    """Points where the masks are undecided, and uniform ones for the rest (PointRend's importance sampling)."""
    num_matched = len(logits)
    candidates = draw(num_matched, int(config.num_points * config.oversample), 2).to(logits)  # (M, 3P, 2)
    num_chosen = int(config.importance * config.num_points)
    uncertainty = -sample_points(logits[:, None], candidates)[:, 0].abs()  # (M, 3P)
    chosen = uncertainty.topk(num_chosen, dim=1).indices[..., None].expand(-1, -1, 2)  # (M, .75P, 2)
    uniform = draw(num_matched, config.num_points - num_chosen, 2).to(logits)
    return torch.cat([candidates.gather(1, chosen), uniform], dim=1)  # (M, P, 2)


@torch.no_grad()
def uncertain_cells(logits: Float[Tensor, "M P"]) -> Int64[Tensor, "M p"]:
    """Where each mask is least decided, an eighth of all cells: the others would drown them in the mean."""
    return logits.abs().topk(max(1, logits.shape[1] // 8), dim=1, largest=False).indices


def bce_loss(logits: Float[Tensor, "M P"], labels: Float[Tensor, "M P"], num_masks: float) -> Float[Tensor, ""]:
    """Sigmoid cross-entropy of matched masks: mean over places, summed over masks / num_masks."""
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1).sum() / num_masks


def dice_loss(logits: Float[Tensor, "M P"], labels: Float[Tensor, "M P"], num_masks: float) -> Float[Tensor, ""]:
    """One minus the (smoothed) dice coefficient of matched masks, summed over masks / num_masks."""
    inside = logits.sigmoid()
    dice = 1 - (2 * (inside * labels).sum(1) + 1) / (inside.sum(1) + labels.sum(1) + 1)
    return dice.sum() / num_masks


def condition_loss(
    logits: Float[Tensor, "B K N"],
    present: Bool[Tensor, "B K"],
    matching: Matching,
    num_masks: float,
    own_from: int | None = None,
) -> Float[Tensor, ""]:
    """Each condition must point to its own proposal: cross-entropy over all real (condition, proposal) logits.

    Positives weigh as much as all negatives together (pos_weight = (total - num_masks) / num_masks). Conditions
    without a matched proposal, those of absent objects, have no positive.
    """
    targets = torch.zeros_like(logits)
    targets[matching.records, matching.objects, matching.proposals] = 1
    columns = torch.ones_like(logits[:, :1], dtype=torch.bool)  # (B, 1, N)
    if own_from is not None:
        columns[:, 0, own_from:] = present
        num_masks = 2 * num_masks
    real = present[..., None] & columns
    pos_weight = (real.sum() - num_masks) / num_masks
    return F.binary_cross_entropy_with_logits(logits[real], targets[real], pos_weight=pos_weight)


def alignment_loss(
    query: Float[Tensor, "B K C"], target: Float[Tensor, "B K C"], visible: Bool[Tensor, "B K"]
) -> Float[Tensor, ""]:
    """XObjAlign as released: the Euclidean distance of an object's embeddings in both views, per record then mean."""
    distance = (query - target).norm(dim=-1) * visible  # (B, K)
    return (distance.sum(1) / visible.sum(1).clamp(min=1)).mean()


@torch.autocast("cuda", enabled=False)
def contrast_loss(
    query: Float[Tensor, "V D"], target: Float[Tensor, "V D"], others: Bool[Tensor, "V V"], temperature: float
) -> Float[Tensor, ""]:
    """XObjAlign that also pushes: row i of each view must find row i of the other among its `others` (InfoNCE)."""
    query, target = F.normalize(query.float(), dim=-1), F.normalize(target.float(), dim=-1)
    own = torch.eye(len(query), dtype=torch.bool, device=query.device)
    logits = (query @ target.T / temperature).masked_fill(~(others | own), -torch.inf)  # (V, V)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


class LevelLoss(NamedTuple):
    """One decoder level's losses, unweighted, and the matching that they rest on."""

    mask: Float[Tensor, ""]
    dice: Float[Tensor, ""]
    condition: Float[Tensor, ""]
    matching: Matching


def level_loss(
    level: Level,
    targets: Targets,
    config: LossConfig,
    draw: Draw,
    num_masks: float | None = None,
    own_from: int | None = None,
) -> LevelLoss:
    """Match and score one level; `num_masks` is the batch's count of visible objects over all processes, if several.

    Masks are compared at random points, as released, or on the cells of the mask map, whose labels are then the shares
    of them that the object covers: of an object of a few cells, a thousand points see next to nothing.
    Where objects propose masks of their own, `own_from` is the first one's number: each belongs to its object, and
    the others are matched besides.
    """
    count = max(float(targets.visible.sum()) if num_masks is None else num_masks, 1.0)
    mask_logits = level.mask_logits.float()  # (B, N, h, w)
    on_cells = config.num_points is None
    if on_cells:
        targets = targets.on_cells(mask_logits.shape[-2:])
    masks = targets.masks.float()  # (B, K, H, W), or (B, K, h, w) on cells
    if on_cells:
        compared = mask_logits.flatten(2), masks.flatten(2)  # (B, N, P), (B, K, P)
    else:
        points = torch.cat([draw(1, config.num_points, 2) for _ in masks]).to(mask_logits)  # (B, P, 2)
        compared = sample_points(mask_logits, points), sample_points(masks, points)
    matching = match(compared[0][:, :own_from], compared[1], targets.visible)
    if own_from is not None:
        records, objects = targets.visible.nonzero(as_tuple=True)
        own = Matching(records, own_from + objects, objects)
        matching = Matching(*(torch.cat(pair) for pair in zip(matching, own, strict=True)))
    logits = mask_logits[matching.records, matching.proposals]  # (M, h, w)
    labels = masks[matching.records, matching.objects]  # (M, H, W)
    if on_cells:
        logits, labels = logits.flatten(1), labels.flatten(1)  # (M, P)
        undecided = uncertain_cells(logits)
        bce = bce_loss(logits.gather(1, undecided), labels.gather(1, undecided), count)
    else:
        points = uncertain_points(logits, config, draw)
        logits, labels = (sample_points(each[:, None], points)[:, 0] for each in (logits, labels))  # (M, P)
        bce = bce_loss(logits, labels, count)
    conditions = condition_loss(level.condition_logits.float(), targets.present, matching, count, own_from)
    return LevelLoss(bce, dice_loss(logits, labels, count), conditions, matching)
