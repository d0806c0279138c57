"""A training step, each distinct image encoded once, against the straightforward loop; side by side in one run.

    python benchmarks/training.py [--device cpu|cuda] [--model FOLDER] [--frames 3] [--exos 2] [--objects 5]

Stage 2: the image tower is frozen, all else learns. A frame with one ego and E exo cameras is 2 E records. The
straightforward loop takes three passes through the image tower for every record, and computes the language model's
logits over its vocabulary, as the released code does; then it learns from the same records with the same losses.
Without --model the weights are random in the released shapes: no figure depends on their values.
"""

from __future__ import annotations

import argparse
import resource
from dataclasses import replace
from pathlib import Path

import torch
from frame import make_model, make_samples, timed
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from egoexo_xseg.config import TrainConfig
from egoexo_xseg.jobs.train import make_optimizer, take_step
from egoexo_xseg.jobs.train_state import Processes
from egoexo_xseg.model.checkpoint import load_checkpoint
from egoexo_xseg.model.configuration import CrossViewConfig
from egoexo_xseg.model.inputs import Batch, Sample, collate
from egoexo_xseg.model.objective import Objective, freeze
from egoexo_xseg.model.segmenter import CrossViewModel
from egoexo_xseg.parallel import keep_freed_memory


class Straightforward(Objective):
    """The same losses at the released code's cost."""

    def __init__(self, segmenter: CrossViewModel, config: TrainConfig) -> None:
        super().__init__(segmenter, config)
        language = segmenter.config.language
        head = nn.Linear(language.hidden_size, language.vocab_size, bias=False)
        self.lm_head = head.to(segmenter.device).requires_grad_(False)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        self.segmenter.encode(batch.images[list(batch.target)])  # for the text; the others follow
        hook = self.segmenter.language.register_forward_hook(self._spell)
        try:
            return super().forward(batch)
        finally:
            hook.remove()

    def _spell(self, _: nn.Module, __: object, read: BaseModelOutput) -> None:
        """Logits that nobody asks for."""
        self.lm_head(read.last_hidden_state)


def make_records(config: CrossViewConfig, frames: int, exos: int, objects: int) -> list[Sample]:
    """Records with the query masks as the target's: what is learnt does not matter here."""
    found = [sample for frame in make_samples(config, exos, objects, frames) for sample in frame]
    return [replace(sample, target_masks=sample.query_masks) for sample in found]


def alone(samples: list[Sample]) -> list[Sample]:
    """The same records, no two of which share an image."""
    return [
        replace(
            sample,
            query=replace(sample.query, name=f"{index} {sample.query.name}"),
            target=replace(sample.target, name=f"{index} {sample.target.name}"),
        )
        for index, sample in enumerate(samples)
    ]


def measure(device: str, model: Path | None, frames: int, exos: int, objects: int, repeat: int) -> dict[str, float]:
    """Figures by name."""
    if device == "cpu":
        keep_freed_memory()
    found: dict[str, float] = {}
    for name, kind in (("straightforward", Straightforward), ("xseg", Objective)):
        torch.manual_seed(0)
        if model:
            segmenter, _ = load_checkpoint(model, device=device)
        else:
            segmenter = make_model(CrossViewConfig(), device, torch.float32)
        config = TrainConfig()
        freeze(segmenter, config)
        if device == "cuda":
            segmenter.language.gradient_checkpointing_enable()
            torch.cuda.reset_peak_memory_stats()
        learner, optimizer = kind(segmenter, config), make_optimizer(segmenter, config)
        samples = make_records(segmenter.config, frames, exos, objects)
        batch = collate(samples if kind is Objective else alone(samples))
        processes = Processes(0, 1, torch.device(device))

        def work(learner=learner, optimizer=optimizer, batch=batch, processes=processes) -> None:
            take_step(learner, optimizer, [batch], (0, 10), processes)

        work()  # the optimizer's state, and whatever else is made once
        took = timed(work, device, repeat)
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else 1024 * resource.getrusage(0).ru_maxrss
        found |= {
            f"{name}, records a second": len(samples) / took.wall,
            f"{name}, seconds a step of {len(samples)}": took.wall,
            f"{name}, peak memory so far, GB" if device == "cpu" else f"{name}, peak memory, GB": peak / 1e9,
        }
        del segmenter, learner, optimizer
    ratio = found["xseg, records a second"] / found["straightforward, records a second"]
    return found | {"times as many records a second": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--model", type=Path, help="a checkpoint (default: the released size)")
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--exos", type=int, default=2)
    parser.add_argument("--objects", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=3, help="the fastest counts")
    for name, value in measure(**vars(parser.parse_args())).items():
        print(f"{name}: {value:.4g}")


if __name__ == "__main__":
    main()
