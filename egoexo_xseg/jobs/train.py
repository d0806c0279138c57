"""The training loop, top to bottom: draw pairs, answer them both ways, compare, step, log, save, resume."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Bool
from torch import Tensor, nn

from egoexo_xseg.config import TrainConfig
from egoexo_xseg.errors import XsegError
from egoexo_xseg.model.checkpoint import load_checkpoint, save_checkpoint
from egoexo_xseg.model.inputs import Batch, Fit, Sample, View, collate, fit_image, fit_mask
from egoexo_xseg.model.losses import LossConfig, Targets, contrast_loss, level_loss
from egoexo_xseg.model.prompts import PromptBuilder
from egoexo_xseg.model.segmenter import CrossViewSegmenter, Encoding
from egoexo_xseg.world.draws import ViewPair, draw_pair, world_seed
from egoexo_xseg.world.scene import make_scene

REPLAYED = 200
"""Pairs that wait for their second turn."""

MOMENTS = 4
"""Pairs drawn of one scene; a new one costs as much as a picture."""


def iter_pairs_of_views(seed: int, start: int, side: int) -> Iterator[ViewPair]:
    """Endless moments of endless scenes, none of which `xseg sample` ever makes; `start` skips to the n-th scene."""
    index = start
    while True:
        rng = np.random.default_rng(world_seed("train", seed, index))
        scene = make_scene(world_seed("train scene", seed, index), exo_cameras=2)
        for _ in range(MOMENTS):
            yield draw_pair(scene, float(rng.uniform(0, scene.duration)), int(rng.integers(2)), side)
        index += 1


def replay(pairs: Iterator[ViewPair], rng: np.random.Generator) -> Iterator[ViewPair]:
    """Every pair twice, the second time some while later: drawing one costs half as much as learning from it."""
    kept: list[ViewPair] = []
    for pair in pairs:
        yield pair
        kept.append(pair)
        if len(kept) > REPLAYED:
            yield kept.pop(int(rng.integers(len(kept))))


class PairMaker:
    """Turns drawn views into records of both directions, varied in ways that keep both views true."""

    def __init__(self, config: TrainConfig, prompts: PromptBuilder, side: int, rng: np.random.Generator) -> None:
        self.config, self.prompts, self.side, self.rng = config, prompts, side, rng

    def make(self, pair: ViewPair, name: str) -> list[Sample]:
        """Records of what is visible in either view; mirrored and tinted at random."""
        views, labels = [], []
        for view, image, instances in (
            ("ego", pair.ego_image, pair.ego_instances),
            ("exo", pair.exo_image, pair.exo_instances),
        ):
            if self.rng.random() < 0.5:
                image, instances = image[:, ::-1], instances[:, ::-1]
            image = self._tint(image)
            fit = Fit.of(image.shape[:2], self.side)
            views.append(View(f"{name} {view}", fit_image(np.ascontiguousarray(image), self.side, 128), fit))
            labels.append(instances)
        samples = []
        for query, target in ((0, 1), (1, 0)):
            present = self.rng.permutation([label for label in np.unique(labels[query]) if label])
            if len(present):
                samples.append(self._sample(pair, views, labels, (query, target), present))
        return samples

    def _sample(self, pair, views, labels, order, present) -> Sample:
        query, target = order
        query_masks, target_masks = (
            np.stack([fit_mask(np.ascontiguousarray(labels[view] == label), self.side) for label in present])
            for view in (query, target)
        )
        told = self.rng.random() < self.config.caption_share
        captions = [self._caption(pair, label) if told else None for label in present]
        return Sample(views[query], views[target], query_masks, self.prompts.build(captions), target_masks)

    def _caption(self, pair: ViewPair, label: int) -> str | None:
        """What the thing is, or now and then nothing, or what another thing is: captioners err."""
        luck = self.rng.random()
        if luck < self.config.caption_noise:
            return None
        other = luck < 2 * self.config.caption_noise
        return pair.things[int(self.rng.integers(len(pair.things))) if other else label - 1].caption

    def _tint(self, image: np.ndarray) -> np.ndarray:
        """Another exposure and white balance, as cameras differ."""
        gain = self.rng.uniform(0.75, 1.3) * self.rng.uniform(0.93, 1.07, 3)
        return np.clip(image * gain, 0, 255).astype(np.uint8)


class TrainStep(nn.Module):
    """A model with its losses, as one module: what data parallelism wraps."""

    def __init__(self, segmenter: CrossViewSegmenter, config: TrainConfig) -> None:
        super().__init__()
        self.segmenter, self.config = segmenter, config
        self.losses = LossConfig(num_points=config.num_points)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name, `loss` the weighted sum of all."""
        segmenter = self.segmenter
        encoding = segmenter.encode(batch.images)
        output = segmenter.answer(batch, encoding)
        visible = batch.target_masks.flatten(2).any(-1) & output.present  # (B, K)
        targets = Targets(batch.target_masks, output.present, visible)
        count = visible.sum().float()
        if dist.is_initialized():
            dist.all_reduce(count)
            count /= dist.get_world_size()
        levels = [
            level_loss(level, targets, self.losses, torch.rand, max(float(count), 1.0)) for level in output.levels
        ]
        parts = {
            "mask": sum(level.mask for level in levels),
            "dice": sum(level.dice for level in levels),
            "condition": sum(level.condition for level in levels),
            "contrast": self._contrast(batch, encoding, visible),
        }
        weights = {
            "mask": self.losses.mask_weight,
            "dice": self.losses.dice_weight,
            "condition": self.losses.condition_weight,
            "contrast": self.config.contrast_weight,
        }
        parts["loss"] = sum(weights[name] * value for name, value in parts.items())
        return parts

    def _contrast(self, batch: Batch, encoding: Encoding, visible: Bool[Tensor, "B K"]) -> Tensor:
        """Objects of the query views against those of the target views: each must find itself among all."""
        views = [
            self.segmenter.pool(encoding, images, masks)[visible]  # (V, D)
            for images, masks in ((batch.query, batch.query_masks), (batch.target, batch.target_masks))
        ]
        if not len(views[0]):
            return encoding.tokens.sum() * 0
        return contrast_loss(*views, self.config.contrast_temperature)


def train(init: Path, out: Path, config: TrainConfig) -> Path:
    """Train `init` on drawn scenes; every `keep_every` steps `out/last` holds all that resuming needs.

    Under `torchrun`, each process draws its own scenes and gradients are averaged. Returns the folder of the trained
    checkpoint, `out/model`.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    device = (
        torch.device("cuda", rank % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
    )
    torch.manual_seed(config.seed * 1000 + rank)
    segmenter, prompts = load_checkpoint(init, device=device)
    segmenter.train()
    step_module: nn.Module = TrainStep(segmenter, config)
    if world > 1:
        step_module = nn.parallel.DistributedDataParallel(step_module, find_unused_parameters=True)
    optimizer = _optimizer(segmenter, config)
    out.mkdir(parents=True, exist_ok=True)
    start = _resume(out, segmenter, optimizer, config)
    rng = np.random.default_rng([config.seed, rank, start])
    maker = PairMaker(config, prompts, segmenter.config.image_size, rng)
    first_scene = start * config.batch_size // (2 * MOMENTS)
    pairs = replay(iter_pairs_of_views(config.seed * world + rank, first_scene, segmenter.config.image_size), rng)
    began = time.monotonic()
    for step in range(start, config.steps):
        samples: list[Sample] = []
        while len(samples) < 2 * config.batch_size:
            samples += maker.make(next(pairs), f"{len(samples)}")
        for group in optimizer.param_groups:
            group["lr"] = config.lr * _schedule(step, config)
        parts = step_module(collate(samples).to(device))
        if not torch.isfinite(parts["loss"]):
            raise XsegError(f"the loss is not finite at step {step}", where=out, remedy="Lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        parts["loss"].backward()
        norm = nn.utils.clip_grad_norm_(segmenter.parameters(), config.clip)
        optimizer.step()
        if rank == 0:
            values = {name: round(value.item(), 4) for name, value in parts.items()}
            _log(
                out,
                {"step": step, "seconds": round(time.monotonic() - began, 1), "norm": round(norm.item(), 2), **values},
            )
            if (step + 1) % config.keep_every == 0 or step + 1 == config.steps:
                _save(out, segmenter, prompts, optimizer, step + 1, config)
    return out / "model"


def _optimizer(segmenter: CrossViewSegmenter, config: TrainConfig) -> torch.optim.Optimizer:
    matrices = [p for p in segmenter.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in segmenter.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def _schedule(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine from 1 to `final_lr`."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * done)) / 2


def _log(out: Path, row: dict[str, Any]) -> None:
    with (out / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _save(
    out: Path,
    segmenter: CrossViewSegmenter,
    prompts: PromptBuilder,
    optimizer: torch.optim.Optimizer,
    step: int,
    config: TrainConfig,
) -> None:
    """The checkpoint first, then the state beside it: a kill between the two resumes from the older state."""
    segmenter.config.untrained = False
    save_checkpoint(segmenter, prompts, out / "model")
    state = {
        "model": segmenter.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "config": config.to_json(),
    }
    partial = out / ".state.pt.partial"
    torch.save(state, partial)
    os.replace(partial, out / "state.pt")
    (out / "train.json").write_text(json.dumps(config.to_json(), indent=1) + "\n", "utf-8")


def _resume(out: Path, segmenter: CrossViewSegmenter, optimizer: torch.optim.Optimizer, config: TrainConfig) -> int:
    """Continue where a run of the same configuration stopped."""
    path = out / "state.pt"
    if not path.is_file():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    segmenter.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
