"""A whole take in both directions, from JPEG on disk to packed JSON: time, how busy the GPU is, and memory.

    python benchmarks/take.py --folder FOLDER [--device cpu|cuda] [--model CHECKPOINT] [--frames 60] [--exos 4]
                              [--batch-size N]

Frames are noise at 448p, with five objects. Without --model, a checkpoint of the released size with random weights
is written into FOLDER first (6.4 GB). Loading the model is not counted, nor is a first short take.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import load
import numpy as np
import torch
from PIL import Image
from submission import make_takes

from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.jobs.pack import pack
from egoexo_xseg.jobs.predict import PredictOptions, Predictor, PredictSummary
from egoexo_xseg.records import Direction


def make_take(data: Path, exos: int, frames: int) -> None:
    """A prepared take, with pictures of noise."""
    make_takes(data, 1, exos, frames)
    rng = np.random.default_rng(0)
    (path,) = data.glob("*/annotation.json")
    for camera, masks in next(iter(json.loads(path.read_bytes())["masks"].values())).items():
        (path.parent / camera).mkdir()
        for frame, rle in masks.items():
            height, width = rle["size"]
            noise = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8))
            noise.resize((width, height)).save(path.parent / camera / f"{frame}.jpg", quality=95)


@contextmanager
def watched_gpu(device: str) -> Iterator[list[float]]:
    """How busy the GPU was in every fifth of a second, as its driver tells; nothing of a CPU."""
    busy: list[float] = []
    if device == "cpu":
        yield busy
        return
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    with subprocess.Popen(query, stdout=subprocess.PIPE, text=True) as watch:
        yield busy
        watch.terminate()
        busy += [float(line) / 100 for line in watch.stdout if line.strip().isdigit()]


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Figures by name."""
    folder, device = options.folder, options.device
    checkpoint = options.model or folder / "released"
    if not checkpoint.is_dir():
        load.write(folder, layers=24)
    for name, frames in (("short", 2), ("whole", options.frames)):
        if not (folder / name).is_dir():
            make_take(folder / name, options.exos, frames)
    wanted = PredictOptions(
        folder / "whole", folder / "pred", None, str(checkpoint), device=device, batch_size=options.batch_size
    ).settled()
    predictor = Predictor(wanted, checkpoint)
    for direction in Direction:
        (wanted.out / direction.value).mkdir(parents=True, exist_ok=True)
    for take in open_annotations(folder / "short"):
        predictor.write_take(take, list(Direction), None, PredictSummary(wanted.out))
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    annotations, summary = open_annotations(folder / "whole"), PredictSummary(wanted.out)
    with watched_gpu(device) as busy:
        began = time.perf_counter()
        for take in annotations:
            predictor.write_take(take, list(Direction), None, summary)
        predicted = time.perf_counter() - began
    pack(wanted.out, annotations, folder / "submission.json")
    whole = time.perf_counter() - began
    records = 2 * options.exos * options.frames
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 1024 * resource.getrusage(0).ru_maxrss
    found = {
        "seconds, frames to submission": whole,
        "of it packing": whole - predicted,
        "records a second": records / whole,
        "answers a second": summary.predictions / whole,
        "peak memory, GB": peak / 1e9,
    }
    return found | ({"share of the time the GPU is busy": float(np.mean(busy))} if busy else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--model", type=Path, help="a checkpoint (default: random, of the released size)")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--exos", type=int, default=4)
    parser.add_argument("--batch-size", type=int, help="records at a time (default: predict's)")
    for name, value in measure(parser.parse_args()).items():
        print(f"{name}: {value:.4g}")


if __name__ == "__main__":
    main()
