"""A checkpoint of the released size from file to answer: each step in a process of its own, its time and peak memory.

    python benchmarks/load.py --folder FOLDER [--layers 24] [--json FILE]

Writes random weights under the released names (two shards, float32, 6.4 GB), converts them into xseg's, loads both, and
answers one pair of views. FOLDER needs 20 GB and is left empty. With fewer layers of the language model, less of all.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "reference_full_manifest.json"
SHARD_BYTES = 5_000_000_000
"""At most, as the released files are cut."""

SIZES = {"torch.float32": 4, "torch.int64": 8}


def shapes(layers: int) -> dict[str, tuple[list[int], str]]:
    """The released files' names, shapes and types, without the language model's layers from `layers` on."""
    manifest = json.loads(GOLDEN.read_bytes())
    kept = range(layers)
    return {
        name: (shape, dtype)
        for name, (shape, dtype) in manifest.items()
        if not name.startswith("model.layers.") or int(name.split(".")[2]) in kept
    }


def shards(layers: int) -> list[dict[str, tuple[list[int], str]]]:
    found: list[dict[str, tuple[list[int], str]]] = [{}]
    filled = 0
    for name, (shape, dtype) in shapes(layers).items():
        size = math.prod(shape) * SIZES[dtype]
        if filled + size > SHARD_BYTES:
            found.append({})
            filled = 0
        found[-1][name] = (shape, dtype)
        filled += size
    return found


def write(folder: Path, layers: int) -> None:
    """Tensor by tensor, so that no more than one lies in memory."""
    from egoexo_xseg.jobs.weights import released_values
    from egoexo_xseg.model.configuration import CrossViewConfig, released_phi
    from egoexo_xseg.model.prompts import PromptBuilder, byte_tokenizer

    released = folder / "released"
    released.mkdir(parents=True)
    parts = shards(layers)
    table = {}
    for index, part in enumerate(parts, 1):
        name = f"model-{index:05}-of-{len(parts):05}.safetensors"
        table |= dict.fromkeys(part, name)
        with (released / name).open("wb") as file:
            for block in blocks(part, seed=index):
                file.write(block)
    (released / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    config = CrossViewConfig(language=released_phi(num_hidden_layers=layers))
    (released / "config.json").write_text(json.dumps(released_values(config)))
    PromptBuilder(byte_tokenizer()).save(released)


def blocks(part: dict[str, tuple[list[int], str]], seed: int) -> Iterator[memoryview]:
    """A safetensors file: length of its header, header, and the tensors' bytes."""
    import torch

    header, at = {}, 0
    for name, (shape, dtype) in part.items():
        size = math.prod(shape) * SIZES[dtype]
        kind = {"torch.float32": "F32", "torch.int64": "I64"}[dtype]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    yield memoryview(len(text).to_bytes(8, "little") + text)
    generator = torch.Generator().manual_seed(seed)
    for name, (shape, dtype) in part.items():
        if dtype == "torch.int64":
            tensor = torch.zeros(shape, dtype=torch.int64)
        elif len(shape) > 1:
            tensor = torch.empty(shape).normal_(0, 0.02, generator=generator)
        else:
            ones = name.endswith("running_var") or (name.endswith("weight") and "bias" not in name)
            tensor = torch.ones(shape) if ones else torch.zeros(shape)
        yield memoryview(tensor.numpy()).cast("B") if shape else memoryview(tensor.numpy().tobytes())


def convert(folder: Path, layers: int) -> None:
    """As `xseg weights convert`."""
    from egoexo_xseg.jobs.weights import convert as run

    run(folder / "released", folder / "converted")


def translate(folder: Path, layers: int) -> None:
    """As `xseg weights pull`, after the download."""
    import torch

    from egoexo_xseg.model.store import translate as run

    run(folder / "released", folder / "translated", torch.float32, {})


def load(folder: Path, layers: int) -> None:
    from egoexo_xseg.model.checkpoint import load_checkpoint

    load_checkpoint(folder / "converted")


def load_released(folder: Path, layers: int) -> None:
    from egoexo_xseg.model.checkpoint import load_checkpoint

    load_checkpoint(folder / "released")


def answer(folder: Path, layers: int) -> None:
    """Load, and find three objects of one view in another."""
    import numpy as np

    from egoexo_xseg import CrossViewSegmenter

    rng = np.random.default_rng(0)
    query, target = (rng.integers(0, 256, (*hw, 3), np.uint8) for hw in ((448, 448), (448, 796)))
    masks = np.zeros((3, 448, 448), bool)
    for index, mask in enumerate(masks):
        mask[100 * index : 100 * index + 60, 200:250] = True
    segmenter = CrossViewSegmenter.from_pretrained(folder / "converted", device="cpu")
    found = segmenter.segment(query, masks, target, ["red cup", "blue box", None])
    assert found.masks.shape == (3, 448, 796) and np.isfinite(found.visibility).all()


STEPS = {each.__name__: each for each in (write, convert, translate, load, load_released, answer)}


def peak_memory() -> int:
    """Bytes that this process held at most, mapped files included; without what its parent had."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def measure(folder: Path, layers: int) -> dict[str, float]:
    """Figures by name; what was written is deleted."""
    import shutil

    figures: dict[str, float] = {}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name in STEPS:
            command = [sys.executable, __file__, "--folder", str(folder), "--layers", str(layers), "--step", name]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            took = json.loads(done.stdout.splitlines()[-1])
            figures |= {f"{name}, seconds": took["seconds"], f"{name}, peak memory, GB": took["peak"] / 1e9}
        size = sum(path.stat().st_size for path in (folder / "converted").glob("*.safetensors"))
    finally:
        for name in ("released", "converted", "translated"):
            shutil.rmtree(folder / name, ignore_errors=True)
    figures["weights, GB"] = size / 1e9
    for name in ("load", "load_released"):
        figures[f"{name}, peak memory over weights"] = figures[f"{name}, peak memory, GB"] * 1e9 / size
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="a place for 20 GB")
    parser.add_argument("--layers", type=int, default=24, help="of the language model")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        began = time.perf_counter()
        STEPS[options.step](options.folder, options.layers)
        print(json.dumps({"seconds": time.perf_counter() - began, "peak": peak_memory()}))
        return
    figures = measure(options.folder, options.layers)
    for name, value in figures.items():
        print(f"{name}: {value:.4g}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
