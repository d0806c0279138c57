"""What a training run keeps on disk, so that the same command goes on where it was stopped."""

from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from egoexo_xseg import __version__
from egoexo_xseg.config import TrainConfig
from egoexo_xseg.errors import CheckpointError, XsegError
from egoexo_xseg.files import written_whole
from egoexo_xseg.model.checkpoint import save_checkpoint
from egoexo_xseg.model.folders import clear_abandoned
from egoexo_xseg.model.objective import Objective
from egoexo_xseg.model.prompts import PromptBuilder

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass(frozen=True)
class Processes:
    """This process among those that train together (`torchrun` tells)."""

    rank: int
    count: int
    device: torch.device
    on_machine: int = 1  # how many of them share this machine
    leads_machine: bool = True

    @classmethod
    def here(cls, device: str | None) -> Processes:
        rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if kind == "cuda":
            kind = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
            torch.cuda.set_device(kind)
        if count > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if kind.startswith("cuda") else "gloo")
        together, leads = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), os.environ.get("LOCAL_RANK", "0") == "0"
        return cls(rank, count, torch.device(kind), together, leads)

    def wait(self) -> None:
        if self.count > 1:
            dist.barrier()


def unwrap(learner: nn.Module) -> Objective:
    """The objective inside the copies of data parallelism."""
    return learner.module if isinstance(learner, nn.parallel.DistributedDataParallel) else learner


def describe_run(config: TrainConfig, identity: dict[str, object], processes: Processes) -> dict[str, Any]:
    """What `train.json` says; the same configuration and identity belong to the same run."""
    return {
        "config": config.to_json(),
        "run": {**identity, "processes": processes.count},
        "versions": {"xseg": __version__, "python": platform.python_version(), "torch": torch.__version__},
    }


def refuse_other(out: Path, manifest: dict[str, Any]) -> None:
    """Leave a folder alone that holds another run, as far as the manifest says what this one is."""
    path = out / "train.json"
    if not path.is_file():
        return
    try:
        before = json.loads(path.read_bytes())
        same = before["config"] == manifest["config"] and manifest["run"].items() <= before["run"].items()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise XsegError("not readable as a training run", where=path, remedy="Choose another --out") from None
    if not same:
        problem = "this folder holds a run with another configuration"
        raise XsegError(problem, where=out, remedy="Choose another --out, or delete it")


def settle(out: Path, manifest: dict[str, Any], processes: Processes) -> None:
    """Write the configuration down, unless a run of the same goes on, and clear what a killed one was scoring."""
    if processes.rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        clear_abandoned(out / "model")
        for abandoned in out.glob(".validation-*.partial"):
            shutil.rmtree(abandoned)
        for abandoned in out.glob(".state-*.partial"):
            abandoned.unlink()
        if not (out / "train.json").is_file():
            with written_whole(out / "train.json") as file:
                file.write(json.dumps(manifest, indent=1) + "\n")
    processes.wait()


def save(
    out: Path,
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    prompts: PromptBuilder,
    step: int,
    processes: Processes,
) -> None:
    """The model first, then the state, which says that both are whole; then all but the newest few are deleted."""
    objective = unwrap(learner)
    # FSDP gathers into padded storages, which would be saved whole.
    weights = {
        name: value if value.nbytes == value.untyped_storage().nbytes() else value.clone()
        for name, value in get_model_state_dict(objective, options=WHOLE).items()
    }
    state = {
        "step": step,
        "model": weights,
        "optimizer": get_optimizer_state_dict(objective, optimizer, options=WHOLE),
    }
    if processes.rank == 0:
        segmenter = objective.segmenter
        segmenter.config.untrained = False
        own = {name.removeprefix("segmenter."): value for name, value in weights.items()}
        save_checkpoint(segmenter, prompts, out / "model", own, [out / "train.json"])
        partial = out / f".state-{step}.partial"
        torch.save(state, partial)
        os.replace(partial, out / f"state-{step}.pt")
        for old in _states(out)[: -objective.config.keep_last]:
            old.unlink()
    processes.wait()


def _states(out: Path) -> list[Path]:
    """Complete states, oldest first."""
    numbers = {path: path.stem.removeprefix("state-") for path in out.glob("state-*.pt")}
    own = [path for path, number in numbers.items() if number.isdecimal()]
    return sorted(own, key=lambda path: int(numbers[path]))


def resume(out: Path, learner: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Continue after the newest state; returns the steps already done."""
    states = _states(out)
    if not states:
        return 0
    try:
        state = torch.load(states[-1], map_location="cpu", weights_only=True, mmap=True)
        objective = unwrap(learner)
        set_model_state_dict(objective, state["model"], options=WHOLE)
        set_optimizer_state_dict(objective, optimizer, state["optimizer"], options=WHOLE)
        return int(state["step"])
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, EOFError) as fault:
        raise CheckpointError(f"cannot be resumed from ({str(fault)[:200]})", where=states[-1]) from None
