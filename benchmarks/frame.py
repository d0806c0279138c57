"""One frame at full size, both directions, against the released algorithm record by record; side by side in one run.

    python benchmarks/frame.py [--device cpu|cuda] [--exos 4] [--objects 3] [--frames 1] [--repeat 1]

A frame with one ego and E exo cameras is 2 E records. The weights are random, in the released shapes: no figure here
depends on their values. The baseline is the released algorithm in our own modules: float32, one record at a time,
three passes through the image tower, the whole text for every record, masks drawn large before every layer, and all
proposals brought to the image's size.
"""

from __future__ import annotations

import argparse
import math
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers.activations import NewGELUActivation
from transformers.initialization import no_init_weights

from egoexo_xseg.model import pixel_decoder, precision
from egoexo_xseg.model.answers import Segmentation, segment
from egoexo_xseg.model.assignment import assign, mask_sureness
from egoexo_xseg.model.checkpoint import EXACT, held_as
from egoexo_xseg.model.configuration import CrossViewConfig
from egoexo_xseg.model.inputs import Sample, View, collate, fit_mask, unfit
from egoexo_xseg.model.prompts import PromptBuilder, word_tokenizer
from egoexo_xseg.model.segmenter import CrossViewModel, Encoding
from egoexo_xseg.parallel import keep_freed_memory

Shape = tuple[int, ...]
EGO_HW, EXO_HW = (448, 448), (448, 796)


def attention_operations(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    return sdpa_flop_count(query, key, value)


def product_operations(x: Shape, weight: Shape, *_: object, **__: object) -> int:
    return 2 * math.prod(x) * weight[0]


CPU_OPERATIONS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_operations,
    torch.ops.mkldnn._linear_pointwise: product_operations,
}
"""What torch's counter leaves out."""

PARTS = {
    "image tower": ("swin", "forward"),
    "projector": ("projector", "forward"),
    "language model": ("language", "forward"),
    "pixel decoder": ("pixel_decoder", "forward"),
    "mask decoder": ("mask_decoder", "finish"),
}
"""Modules of the segmenter, and what does their work; what remains is pooling, scoring and resizing."""
REST = "scoring and the rest"


def make_model(config: CrossViewConfig, device: str, dtype: torch.dtype) -> CrossViewModel:
    """Random weights of a trained model's size."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with torch.device(device), no_init_weights():
        segmenter = CrossViewModel(config)
    torch.set_default_dtype(default)
    for part in EXACT:
        segmenter.get_submodule(part).to(held_as(part, dtype))
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, weight in segmenter.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.02, generator=generator)
            else:
                weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        for module in segmenter.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
    return segmenter.eval()


def make_samples(config: CrossViewConfig, exos: int, objects: int, frames: int) -> list[list[Sample]]:
    """The records of each frame."""
    rng = np.random.default_rng(0)
    captions = ["red cup", "blue striped box", "knife"] * objects
    prompts = PromptBuilder(word_tokenizer(captions))  # one token a word, as Phi's vocabulary has it
    found = []
    for frame in range(frames):
        names = ["ego", *(f"exo{index}" for index in range(exos))]
        sizes = [EGO_HW, *[EXO_HW] * exos]
        views = {
            name: View.of(f"{frame} {name}", rng.integers(0, 256, (*hw, 3), np.uint8), config.image_size)
            for name, hw in zip(names, sizes, strict=True)
        }
        masks = {name: blobs(rng, hw, objects, config.image_size) for name, hw in zip(names, sizes, strict=True)}
        pairs = [*(("ego", exo) for exo in names[1:]), *((exo, "ego") for exo in names[1:])]
        found.append(
            [
                Sample(views[query], views[target], masks[query], prompts.build(captions[:objects]))
                for query, target in pairs
            ]
        )
    return found


def blobs(rng: np.random.Generator, hw: tuple[int, int], count: int, side: int) -> np.ndarray:
    masks = np.zeros((count, *hw), bool)
    for mask in masks:
        row, column = rng.integers(0, hw[0] - 60), rng.integers(0, hw[1] - 60)
        mask[row : row + 50, column : column + 40] = True
    return np.stack([fit_mask(mask, side) for mask in masks])


@contextmanager
def released_operations() -> Iterator[None]:
    """As the released code computes: torch's own products, the language model's activation in eight steps, deformable
    attention by `grid_sample`."""
    with (
        patch.object(pixel_decoder, "sample_by_gather", pixel_decoder.sample_by_grid),
        patch.object(precision, "fuses", lambda x, weight: False),
        patch.dict(precision.ACTIVATIONS, gelu_tanh=NewGELUActivation()),
    ):
        yield


@torch.inference_mode()
def released_way(segmenter: CrossViewModel, sample: Sample, hw: tuple[int, int]) -> Segmentation:
    """One record as the released code answers it."""
    batch = collate([sample]).to(segmenter.device)
    (query,), (target,) = batch.query, batch.target
    for_text, under_masks, for_masks = (segmenter.encode(batch.images[[i]]) for i in (target, query, target))
    order = [under_masks, for_masks] if query < target else [for_masks, under_masks]
    features = tuple(torch.cat(level) for level in zip(*(each.features for each in order), strict=True))
    tokens = torch.cat([under_masks.tokens, for_text.tokens][:: 1 if query < target else -1])
    output = segmenter.answer(batch, Encoding(features, tokens))
    masks = unfit(output.mask_logits[0], batch.fits[0], hw)  # (100, H, W)
    scores = (output.condition_logits[0].float().sigmoid() * mask_sureness(masks)).cpu()
    chosen = assign(scores)
    own = scores[:, chosen].diagonal()  # (K,), for want of anything else: the released code knows no margin or likeness
    return Segmentation((masks > 0).cpu()[chosen], own, own, own, chosen)


@dataclass
class Took:
    """What the fastest of some tries took, by the clock and of processors; other programs lengthen the latter less."""

    wall: float
    processors: float

    def per(self, count: int) -> dict[str, float]:
        return {"seconds a record": self.wall / count, "processor seconds a record": self.processors / count}


def timed(work: Callable[[], object], device: str, repeat: int) -> Took:
    tries = []
    for _ in range(repeat):
        began, used = time.perf_counter(), time.process_time()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        tries.append(Took(time.perf_counter() - began, time.process_time() - used))
    return min(tries, key=lambda took: took.wall)


@contextmanager
def watched(segmenter: CrossViewModel, gauge: Callable[[], float]) -> Iterator[dict[str, float]]:
    """By how much each part moves a gauge meanwhile."""
    moved = dict.fromkeys([*PARTS, REST], 0.0)

    def watch(name: str, work: Callable[..., object]) -> Callable[..., object]:
        def working(*given: object, **named: object) -> object:
            before = gauge()
            made = work(*given, **named)
            moved[name] += gauge() - before
            return made

        return working

    for name, (part, method) in PARTS.items():
        module = getattr(segmenter, part)
        setattr(module, method, watch(name, getattr(module, method)))
    began = gauge()
    yield moved
    moved[REST] = gauge() - began - sum(moved.values())
    for part, method in PARTS.values():
        delattr(getattr(segmenter, part), method)


def matrix_rates(device: str, dtype: torch.dtype) -> dict[str, float]:
    """Operations a second of a large matrix product, torch's own way and the model's, two for each multiplication
    with its addition."""
    size = 8192 if device == "cuda" else 4096
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    with torch.inference_mode():
        ways = {"torch's": lambda: torch.mm(a, b), "the model's": lambda: precision.linear(a, b, None)}
        return {name: 2 * size**3 / timed(way, device, 5).wall for name, way in ways.items()}


@dataclass
class Work:
    """The records to answer, and how."""

    device: str
    repeat: int
    records: list[Sample]
    sizes: list[tuple[int, int]]

    def measure_baseline(self, segmenter: CrossViewModel, count: int) -> dict[str, float]:
        """Some records of each direction, one by one."""
        chosen = [*range(count // 2), *range(len(self.records) - (count - count // 2), len(self.records))]
        pairs = [(self.records[index], self.sizes[index]) for index in chosen]
        with released_operations():
            if self.device == "cuda":
                released_way(segmenter, *pairs[0])
            took = timed(lambda: [released_way(segmenter, *pair) for pair in pairs], self.device, self.repeat)
        return took.per(count)

    def clock(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def measure(self, segmenter: CrossViewModel) -> dict[str, float]:
        """All records together, as `xseg predict` answers a frame."""
        if self.device == "cpu":
            keep_freed_memory()
        batch = collate(self.records).to(self.device)

        def work() -> None:
            segment(segmenter, batch, self.sizes)

        counter = FlopCounterMode(display=False, custom_mapping=CPU_OPERATIONS)
        with counter, watched(segmenter, counter.get_total_flops) as operations:  # and warms up
            work()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before = matrix_rates(self.device, segmenter.dtype)
        with watched(segmenter, self.clock) as seconds:  # of all tries
            took = timed(work, self.device, self.repeat)
        # The machine may have been busy with something else at one of both times.
        after, count = matrix_rates(self.device, segmenter.dtype), len(self.records)
        rates = {name: max(before[name], after[name]) for name in before}
        rate = max(rates.values())
        found = took.per(count) | {
            "operations a record": sum(operations.values()) / count,
            **{f"operations a second of {name} matrix product": each for name, each in rates.items()},
            "share of it": sum(operations.values()) / rate / took.wall,
        }
        for name, spent in seconds.items():
            found[f"{name}, seconds a record"] = spent / self.repeat / count
            found[f"{name}, share of the time"] = spent / sum(seconds.values())
            found[f"{name}, share of a matrix product's rate"] = operations[name] * self.repeat / rate / spent
        peak = torch.cuda.max_memory_allocated() if self.device == "cuda" else 1024 * resource.getrusage(0).ru_maxrss
        return found | {"peak memory, GB" if self.device == "cuda" else "peak memory so far, GB": peak / 1e9}


def measure(
    device: str = "cpu",
    exos: int = 4,
    objects: int = 3,
    frames: int = 1,
    repeat: int = 1,
    baseline: int = 2,
    dtypes: Sequence[str] = ("float32",),
) -> dict[str, float]:
    """Figures by name."""
    config = CrossViewConfig()
    records = [sample for frame in make_samples(config, exos, objects, frames) for sample in frame]
    sizes = [EXO_HW if "exo" in sample.target.name else EGO_HW for sample in records]
    work = Work(device, repeat, records, sizes)
    found: dict[str, float] = {}
    for dtype in dtypes:
        segmenter = make_model(config, device, getattr(torch, dtype))
        if dtype == "float32" and baseline:
            base = work.measure_baseline(segmenter, baseline)
            found |= {f"the released way, {name}": value for name, value in base.items()}
        own = work.measure(segmenter)
        if "the released way, seconds a record" in found:
            own["share of the released way's time"] = (
                own["seconds a record"] / found["the released way, seconds a record"]
            )
        found |= {f"{dtype}, {name}": value for name, value in own.items()}
        del segmenter
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--exos", type=int, default=4)
    parser.add_argument("--objects", type=int, default=3)
    parser.add_argument("--frames", type=int, default=1, help="at a time")
    parser.add_argument("--repeat", type=int, default=1, help="the fastest counts")
    parser.add_argument("--baseline", type=int, default=2, help="records that are answered the released way")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=["float32", "float16", "bfloat16"])
    for name, value in measure(**vars(parser.parse_args())).items():
        print(f"{name}: {value:.4g}")


if __name__ == "__main__":
    main()
