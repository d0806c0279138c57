"""How long `xseg pack` and `xseg validate` take with a quarter of a million predictions, and their memory.

    python benchmarks/submission.py [--takes 295] [--exos 4] [--predictions 250000]

The takes are made up: annotations of round masks and an answer for every question, without pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.data.pairs import iter_pairs
from egoexo_xseg.masks import Rle, mask_to_rle, scored_hw
from egoexo_xseg.records import Direction, Prediction

HW = {"ego": (448, 448), "exo": (448, 796)}
OBJECTS = 5


def round_masks(rng: np.random.Generator, hw: tuple[int, int], count: int) -> list[Rle]:
    """Ellipses of all sizes with ragged edges, as a segmenter draws them."""
    found = []
    for _ in range(count):
        mask = np.zeros(hw, np.uint8)
        centre, axes = (int(rng.integers(w)) for w in hw[::-1]), (int(a) for a in rng.integers(6, 90, 2))
        cv2.ellipse(mask, tuple(centre), tuple(axes), float(rng.uniform(0, 180)), 0, 360, 1, -1)
        mask |= cv2.dilate(mask, np.ones((3, 3), np.uint8)) & (rng.random(hw) < 0.5).astype(np.uint8)
        found.append(mask_to_rle(mask.astype(bool) if mask.any() else np.eye(*hw, dtype=bool)))
    return found


def make_takes(folder: Path, takes: int, exos: int, frames: int) -> None:
    """Prepared takes without their pictures."""
    rng = np.random.default_rng(0)
    shapes = {side: [rle.to_json() for rle in round_masks(rng, hw, 200)] for side, hw in HW.items()}
    cameras = {"aria01_214-1": "ego", **{f"cam{index:02}": "exo" for index in range(1, exos + 1)}}
    indices = list(range(0, 30 * frames, 30))
    uids = [f"take-{number:04}" for number in range(takes)]
    for uid in uids:
        masks = {
            f"object {number}": {
                camera: {str(frame): shapes[side][rng.integers(200)] for frame in indices}
                for camera, side in cameras.items()
            }
            for number in range(OBJECTS)
        }
        annotation = {
            "take_name": uid,
            "masks": masks,
            "annotated_frames": {name: dict.fromkeys(cameras, indices) for name in masks},
            "subsample_idx": indices,
        }
        (folder / uid).mkdir(parents=True)
        (folder / uid / "annotation.json").write_text(json.dumps(annotation))
    (folder / "split.json").write_text(json.dumps({"test": uids}))


def make_predictions(data: Path, out: Path) -> int:
    rng = np.random.default_rng(1)
    shapes = {hw: round_masks(rng, hw, 200) for hw in {scored_hw(hw) for hw in HW.values()}}
    total = 0
    for take in open_annotations(data, split="test"):
        for direction in Direction:
            path = out / direction.value / f"{take.take_uid}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = []
            for pair in iter_pairs(take, direction):
                own = shapes[scored_hw(pair.target_hw)]
                for entry in pair.objects:
                    sure = float(rng.random())
                    place = (pair.take_uid, entry.object_id, pair.query_camera, pair.target_camera, pair.frame)
                    lines.append(Prediction(*place, own[rng.integers(200)], sure, sure, sure).to_line() + "\n")
            path.write_text("".join(lines))
            total += len(lines)
    return total


def time_line(folder: Path, line: str) -> tuple[float, float]:
    """Seconds, and gigabytes at the peak."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "egoexo_xseg", *line.split()], cwd=folder)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"xseg {line} failed")
    seconds = time.perf_counter() - began
    print(
        f"{seconds:7.1f} s {used.ru_utime + used.ru_stime:7.1f} s of processors "
        f"{used.ru_maxrss / 1e6:5.2f} GB   xseg {line}",
        flush=True,
    )
    return seconds, used.ru_maxrss / 1e6


def measure(takes: int, exos: int, predictions: int) -> dict[str, float]:
    """Figures of a made-up submission of about so many predictions, both directions together."""
    frames = max(1, round(predictions / (takes * 2 * exos * OBJECTS)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_takes(folder / "data", takes, exos, frames)
        total = make_predictions(folder / "data", folder / "pred")
        print(f"{takes} takes, {total} predictions", flush=True)
        pack = time_line(folder, "pack submission.json --predictions pred --data data --split test")
        validate = time_line(folder, "validate submission.json --annotations data --split test")
        print(f"{(folder / 'submission.json').stat().st_size / 1e6:.0f} MB")
    return {
        "pack, milliseconds a prediction": 1000 * pack[0] / total,
        "validate, milliseconds a prediction": 1000 * validate[0] / total,
        "pack and validate, peak GB": max(pack[1], validate[1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--takes", type=int, default=295)
    parser.add_argument("--exos", type=int, default=4)
    parser.add_argument("--predictions", type=int, default=250_000, help="about, of both directions")
    measure(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
