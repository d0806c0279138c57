"""What a training step computes: the model's answers to a batch, and how wrong they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn

from egoexo_xseg.config import TrainConfig
from egoexo_xseg.model.inputs import Batch
from egoexo_xseg.model.losses import LossConfig, Targets, alignment_loss, contrast_loss, level_loss
from egoexo_xseg.model.segmenter import CrossViewModel, Encoding


class Objective(nn.Module):
    """A model with its losses, as one module: what data parallelism wraps."""

    def __init__(self, segmenter: CrossViewModel, config: TrainConfig) -> None:
        super().__init__()
        self.segmenter, self.config = segmenter, config
        self.losses = LossConfig(num_points=config.num_points)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Losses by name; `loss` is their weighted sum. Every distinct image is encoded once."""
        encoding = self.segmenter.encode(batch.images)
        regions = self.segmenter.pool(encoding, batch.query, batch.query_masks)
        reading = self.segmenter.read(batch.prompts, encoding.tokens[list(batch.target)], regions)
        output = self.segmenter.decode(batch, encoding, reading)
        visible = batch.target_masks.flatten(2).any(-1) & output.present  # (B, K)
        targets = Targets(batch.target_masks, output.present, visible)
        if self.losses.num_points is None:  # once for all levels
            targets = targets.on_cells(output.mask_logits.shape[-2:])
        num_masks = _mean_over_processes(visible.sum())
        own = self.segmenter.config.decoder.num_mask_tokens if self.segmenter.config.object_proposals else None
        levels = [level_loss(level, targets, self.losses, torch.rand, num_masks, own) for level in output.levels]
        parts = {
            "mask": sum(level.mask for level in levels),
            "dice": sum(level.dice for level in levels),
            "condition": sum(level.condition for level in levels),
        }
        weights = {
            "mask": self.losses.mask_weight,
            "dice": self.losses.dice_weight,
            "condition": self.losses.condition_weight,
        }
        if self.config.stage != "1" and self.config.alignment != "none":
            aligned = self._align(batch, encoding, (regions, output.objects), visible)
            parts |= aligned
            weights |= dict.fromkeys(aligned, self.config.alignment_weight)
        parts["loss"] = sum(weights[name] * value for name, value in parts.items())
        return parts

    def _align(
        self,
        batch: Batch,
        encoding: Encoding,
        queried: tuple[Float[Tensor, "B K D"], Float[Tensor, "B K C"]],
        visible: Bool[Tensor, "B K"],
    ) -> dict[str, Float[Tensor, ""]]:
        """XObjAlign: what the objects are to the model in one view, and in the other.

        As released, the conditions of objects that the language model read from the query view against those from the
        target view; contrastively, the region features of both views before the language model. `queried`: both, as
        the query view had them.
        """
        found = {}
        regions, objects = queried
        again = self.segmenter.pool(encoding, batch.target, batch.target_masks)
        if self.config.alignment in ("released", "both"):
            reading = self.segmenter.read(batch.prompts, encoding.tokens[list(batch.target)], again)
            found["alignment"] = alignment_loss(objects, reading.objects, visible)
        if self.config.alignment in ("contrast", "both"):
            query, target = regions[visible], again[visible]  # (V, D)
            others = strangers(batch.recordings).to(visible.device)  # (B, B)
            record = visible.nonzero()[:, 0]  # (V,)
            # Without a visible object there is nothing to compare, but every process must have the same graph.
            lone = encoding.tokens.sum() * 0
            found["contrast"] = (
                contrast_loss(query, target, others[record][:, record], self.config.temperature) if len(query) else lone
            )
        return found


def strangers(recordings: Sequence[str]) -> Bool[Tensor, "B B"]:
    """Whose objects are surely other ones: a record's own, and those of records of another recording.

    Other cameras, the other direction and other moments of a recording show the same objects again.
    """
    return torch.tensor(
        [[a == b or ours != theirs for b, theirs in enumerate(recordings)] for a, ours in enumerate(recordings)]
    )


def freeze(segmenter: CrossViewModel, config: TrainConfig) -> None:
    """Leave gradients to what the stage trains; frozen parts answer as they will in use, unless as released."""
    parts = {"1": [segmenter.fusion], "2": [segmenter], "all": [segmenter]}[config.stage]
    segmenter.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)
    if config.stage == "2":
        segmenter.swin.requires_grad_(False)
    segmenter.train(config.reference_behaviour)
    for part in parts:
        part.train()
    if config.stage == "2" and not config.reference_behaviour:
        segmenter.swin.eval()


def _mean_over_processes(count: Tensor) -> float:
    """At least 1, so that a batch without visible objects divides by something."""
    count = count.float()
    if dist.is_initialized():
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return max(count.item(), 1.0)
