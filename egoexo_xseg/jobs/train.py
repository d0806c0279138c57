"""The training loop, top to bottom: read, answer, compare, step, log, save, resume."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Dataset

from egoexo_xseg.config import TrainConfig
from egoexo_xseg.data.annotations import Annotations, open_annotations
from egoexo_xseg.data.captions import Captions
from egoexo_xseg.data.dataset import SampleMaker
from egoexo_xseg.data.moments import DrawnMoments, Moments, PreparedMoments
from egoexo_xseg.errors import XsegError
from egoexo_xseg.jobs.train_log import HeldOut, Log
from egoexo_xseg.jobs.train_state import Processes, describe_run, refuse_other, resume, save, settle, unwrap
from egoexo_xseg.model.checkpoint import checkpoint_hash, load_checkpoint, new_checkpoint, read_shape
from egoexo_xseg.model.inputs import Batch, Sample, collate
from egoexo_xseg.model.objective import Objective, freeze
from egoexo_xseg.model.prompts import PromptBuilder
from egoexo_xseg.model.segmenter import CrossViewModel
from egoexo_xseg.model.store import fetch_model
from egoexo_xseg.parallel import keep_freed_memory
from egoexo_xseg.progress import detail, details_are_shown, show_details, track
from egoexo_xseg.world.paint import COLOURS, PATTERNS
from egoexo_xseg.world.things import SHAPES

MOST_WORKERS = 16
"""Processes that read ahead of a GPU: each holds two batches of up to 0.2 GB in shared memory."""


@dataclass(frozen=True)
class TrainOptions:
    """What to train, on what, and where to; without `data`, scenes are drawn from the sample world."""

    init: str
    out: Path
    config: TrainConfig = field(default_factory=TrainConfig)
    data: Path | None = None
    split: str | None = None
    captions: Path | None = None
    device: str | None = None  # a GPU if there is one
    fsdp: bool = False
    held_out: HeldOut | None = None  # what is scored every now and then
    tensorboard: bool = False


@dataclass(frozen=True)
class Trained:
    """Where the model lies, and what it could not learn from, so far as this start of the command knows."""

    model: Path
    left_out: int = 0  # records of this process that could not be read
    faults: tuple[object, ...] = ()  # masks of the annotations


def train(options: TrainOptions) -> Trained:
    """Train `init` into `out/model`; `out/state-<step>` hold all that another start of the same command goes on with.

    Every random draw is a function of the seed, the process and the step, so a resumed run has the losses of an
    undisturbed one. Raises XsegError where a loss is not finite, naming the records.
    """
    config, processes = options.config, Processes.here(options.device)
    if processes.device.type == "cpu":
        keep_freed_memory()
    _check(options, processes)
    annotations = open_annotations(options.data, split=options.split) if options.data else None
    captions = Captions.read(options.captions, annotations.take_uids) if annotations and options.captions else None
    if options.held_out:
        options.held_out.check(config)
    checkpoint = _find_start(options, processes)
    identity = {
        "init": checkpoint_hash(checkpoint),
        "data": str(options.data or ""),
        "split": options.split or "",
        "captions": captions.hash if captions else None,
    }
    refuse_other(options.out, describe_run(config, identity, processes))
    segmenter, prompts = _load_start(checkpoint, config, processes)
    learner = _distribute(Objective(segmenter, config), options.fsdp, processes)
    optimizer = make_optimizer(segmenter, config)
    moments = _open_moments(options, annotations, captions, segmenter.config.image_size, processes)
    steps = _count_steps(config, moments, processes)
    manifest = describe_run(config, {**identity, "records": moments.identity}, processes)
    refuse_other(options.out, manifest)
    settle(options.out, manifest, processes)
    start = resume(options.out, learner, optimizer)
    log = Log(options.out, start, processes, options.tensorboard)
    shape = segmenter.config
    maker = SampleMaker(config, prompts, shape.image_size, shape.pad_value, shape.decoder.num_mask_tokens)
    batches = Batches(moments, maker, config, processes)

    def validates(done: int) -> bool:
        return options.held_out is not None and (done % config.validate_every == 0 or done == steps)

    def validate(done: int) -> None:
        log.add("validation", {"step": done, **options.held_out.score(options.out, done, config, processes)})

    if start and validates(start) and not log.tells("validation", start):
        validate(start)
    began, left_out = time.monotonic(), 0
    ahead = batches.read_ahead(range(start * config.accumulate, steps * config.accumulate))
    for done in _shown(range(start + 1, steps + 1), processes):
        own = [next(ahead) for _ in range(config.accumulate)]
        losses = take_step(learner, optimizer, own, (done - 1, steps), processes)
        left_out += losses.get("left_out", 0)
        log.add("log", {"step": done, "seconds": round(time.monotonic() - began, 1), **losses})
        if validates(done) or done % config.keep_every == 0 or done == steps:
            save(options.out, learner, optimizer, prompts, done, processes)
        if validates(done):
            validate(done)
    return Trained(options.out / "model", left_out, tuple(annotations.faults) if annotations else ())


def _shown(steps: range, processes: Processes) -> Iterable[int]:
    return steps if processes.rank else track(steps, "Training", total=len(steps))


def _check(options: TrainOptions, processes: Processes) -> None:
    """Refuse what could never work, before gigabytes are fetched for it."""
    if options.data is None and options.config.steps is None:
        raise XsegError("drawn scenes never end", remedy="Give prepared takes (--data), or say how many --steps")
    if options.fsdp and processes.count == 1:
        raise XsegError("--fsdp spreads a model over processes, and there is one", remedy="Use torchrun")
    if Path(options.init).is_file() and options.config.stage != "all":
        problem = f"a new model has nothing that stage {options.config.stage} could leave as it is"
        raise XsegError(problem, where=options.init, remedy="Train it with --stage all")


def _find_start(options: TrainOptions, processes: Processes) -> Path:
    """The checkpoint to start from; a shape alone, the file `config.json`, becomes an untrained one in `out/init`.

    The first process of a machine fetches and translates a checkpoint of the Hub, the others find it done.
    """
    shape, folder = Path(options.init), options.out / "init"
    if not shape.is_file():
        if not processes.leads_machine:
            processes.wait()
        found = fetch_model(options.init)
        if processes.leads_machine:
            processes.wait()
        return found
    if processes.rank == 0:
        words = [f" {word}" for word in (*COLOURS, *PATTERNS.values(), *SHAPES)]
        new_checkpoint(folder, read_shape(shape), options.config.seed, words)
    processes.wait()
    return folder


def _load_start(checkpoint: Path, config: TrainConfig, processes: Processes) -> tuple[CrossViewModel, PromptBuilder]:
    """The model as the stage trains it; parts that the checkpoint lacks are drawn from the seed."""
    torch.manual_seed(config.seed)
    segmenter, prompts = load_checkpoint(checkpoint, device=processes.device, changes=config.model_changes)
    freeze(segmenter, config)
    if processes.device.type == "cuda":
        segmenter.language.activation_checkpointing_enable()
    return segmenter, prompts


class Batches(Dataset[Batch | None]):
    """Batches by number; each is a function of the seed, the process and its number."""

    def __init__(self, moments: Moments, maker: SampleMaker, config: TrainConfig, processes: Processes) -> None:
        self.moments, self.maker, self.config, self.processes = moments, maker, config, processes

    def __getitem__(self, number: int) -> Batch | None:
        """Records of `batch_size` moments; what cannot be read is named and left out; an empty batch gets others."""
        rng = np.random.default_rng([self.config.seed, 2, self.processes.rank, number])
        salt, samples, left_out = int(rng.integers(1 << 32)), list[Sample](), 0
        for turn in range(100):
            first = (number + turn * 1_000_003) * self.config.batch_size
            for own in range(first, first + self.config.batch_size):
                try:
                    moment = self.moments.read(own * self.processes.count + self.processes.rank)
                except XsegError as fault:
                    detail(f"left out: {fault}")
                    left_out += 1
                    continue
                samples += filter(None, [self.maker.make(moment, rng, salt)])
            if samples:
                return replace(collate(samples), left_out=left_out)
        return None

    def read_ahead(self, numbers: range) -> Iterator[Batch]:
        """In order; beside a GPU, processes of their own read and draw a few ahead of whoever takes them."""
        mine = (os.cpu_count() or 1) // self.processes.on_machine
        workers = 0 if self.processes.device.type == "cpu" else max(1, min(MOST_WORKERS, mine))
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            collate_fn=_as_it_is,
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=show_details if workers and details_are_shown() else None,
            pin_memory=workers > 0 and torch.cuda.is_available(),
        )
        try:
            for batch in loader:
                if batch is None:
                    raise XsegError("no record can be read", remedy="xseg -v train names the reasons")
                yield batch
        except RuntimeError as fault:
            if "DataLoader worker" not in str(fault):
                raise
            remedy = "Where it ran out of shared memory, give more (docker run --shm-size=16g)"
            raise XsegError("a process that reads records ahead was ended", remedy=remedy) from None


def _as_it_is(batch: Batch | None) -> Batch | None:
    return batch


def take_step(
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: list[Batch],
    progress: tuple[int, int],
    processes: Processes,
) -> dict[str, float]:
    """One step of the optimizer over the mean of some batches; returns the losses and the gradient's norm.

    `left_out` counts records that could not be read, where there are any.
    """
    config: TrainConfig = unwrap(learner).config
    step, steps = progress
    torch.manual_seed(int(np.random.SeedSequence([config.seed, 3, processes.rank, step]).generate_state(1)[0]))
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate(step, steps)
    optimizer.zero_grad(set_to_none=True)
    total: dict[str, float] = {}
    for number, batch in enumerate(batches):
        last = number + 1 == len(batches)
        quiet = nullcontext() if last or not hasattr(learner, "no_sync") else learner.no_sync()
        mixed = torch.autocast("cuda", torch.bfloat16, enabled=processes.device.type == "cuda")
        with quiet, mixed:
            parts = learner(batch.to(processes.device))
            if not torch.isfinite(parts["loss"]):
                raise _not_finite("loss", step, [batch])
            (parts["loss"] / len(batches)).backward()
        for name, value in parts.items():
            total[name] = total.get(name, 0.0) + value.item() / len(batches)
    norm = _clip_gradients(learner, config.clip, processes)
    if not math.isfinite(norm):
        raise _not_finite("gradient", step, batches)
    optimizer.step()
    row = {name: round(value, 5) for name, value in total.items()}
    row |= {"norm": round(norm, 3), "lr": optimizer.param_groups[0]["lr"]}
    left_out = sum(batch.left_out for batch in batches)
    return row | {"left_out": left_out} if left_out else row


def _not_finite(what: str, step: int, batches: list[Batch]) -> XsegError:
    where = "; ".join(name for batch in batches for name in batch.names)
    return XsegError(f"the {what} is not finite at step {step + 1}", where=where, remedy="Lower --lr")


def _clip_gradients(learner: nn.Module, most: float, processes: Processes) -> float:
    """Scale all gradients so that their norm is at most `most`; returns what it was.

    FSDP does not take scalars (the fusion's k): every process holds them whole, and their gradients are averaged here.
    """
    gradients = [parameter.grad for parameter in learner.parameters() if parameter.grad is not None]
    spread = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    if spread:
        for gradient in whole:
            dist.all_reduce(gradient)
            gradient /= processes.count
    norms = [nn.utils.get_total_norm(own) for own in (spread, whole) if own]
    norm = math.hypot(*(part.full_tensor().item() if isinstance(part, DTensor) else part.item() for part in norms))
    for gradient in gradients:
        gradient.mul_(min(1.0, most / (norm + 1e-6)))
    return norm


def _distribute(objective: Objective, fsdp: bool, processes: Processes) -> nn.Module:
    """Wrap for several processes: whole copies, or weights, gradients and optimizer spread over them."""
    if fsdp:
        for layer in objective.segmenter.language.layers:
            fully_shard(layer)
        scalars = {parameter for parameter in objective.parameters() if parameter.ndim == 0}
        return fully_shard(objective, ignored_params=scalars)
    if processes.count > 1:
        return nn.parallel.DistributedDataParallel(objective, find_unused_parameters=True)
    return objective


def make_optimizer(segmenter: CrossViewModel, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over what trains; weight decay for matrices only."""
    trained = [parameter for parameter in segmenter.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr, betas=config.betas)


def _open_moments(
    options: TrainOptions, annotations: Annotations | None, captions: Captions | None, side: int, processes: Processes
) -> Moments:
    if annotations is None:
        # Where one process does all, drawing costs as much as learning; beside a GPU, nobody keeps what is drawn.
        showings = 2 if processes.device.type == "cpu" else 1
        sharp = round(side / options.config.crop)  # as what is cut out of it is shown
        return DrawnMoments(options.config, sharp, processes.count, showings)
    index = options.out / f"records-{processes.rank}.jsonl"
    return PreparedMoments(annotations, options.config, index, captions)


def _count_steps(config: TrainConfig, moments: Moments, processes: Processes) -> int:
    if config.steps is not None:
        return config.steps
    if moments.length is None:
        raise AssertionError("_check asks for steps")
    per_step = config.batch_size * config.accumulate * processes.count
    return max(1, round(config.epochs * moments.length / per_step))
