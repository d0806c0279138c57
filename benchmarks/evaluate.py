"""`xseg evaluate` against the official evaluator, on the same files, one after the other.

    python benchmarks/evaluate.py --official CLONE/correspondence/evaluation --python OFFICIAL_ENVIRONMENT/bin/python

The official evaluator (https://github.com/EGO4D/ego-exo4d-relation) needs numpy, pycocotools, opencv-python-headless,
scikit-learn, scikit-image and tqdm. Without --official only ours is timed. Whole processes are, start and reading
included; seconds of processors do not change with what else the machine does. Ours is timed on `COPIES` times the
takes as well, since starting is most of it otherwise; the official one takes the same time for each sample.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from egoexo_xseg.data.annotations import Annotations, open_annotations
from egoexo_xseg.data.pairs import required_keys
from egoexo_xseg.data.submission import pair_key
from egoexo_xseg.jobs.sample import write_sample
from egoexo_xseg.masks import mask_to_rle, resize_nearest, rle_to_mask, scored_hw
from egoexo_xseg.records import Direction

COPIES = 10

FIGURES = {
    "iou": "TOTAL IOU",
    "location_error": "TOTAL LOCATION SCORE",
    "contour_accuracy": "TOTAL SHAPE ACC",
    "visibility_balanced_accuracy": "TOTAL EXISTENCE BALANCED ACC",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, help="folder of evaluate_egoexo.py")
    parser.add_argument("--python", default=sys.executable, help="interpreter that can run it")
    parser.add_argument("--takes", type=int, default=24)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sample(folder, seed=99, takes=options.takes, split="val")
        annotations = open_annotations(folder / "annotations" / "relations_val.json")
        write_truth(annotations, folder / "gt.json")
        counts = write_guesses(annotations, folder)
        for direction in Direction:
            compare(folder, direction, counts[direction], options)


def write_truth(annotations: Annotations, path: Path) -> None:
    """The official correspondence-gt.json of the same takes."""
    takes = {}
    for take in annotations:
        masks = {
            object_id: {
                camera: {str(frame): rle.to_json() for frame, rle in frames.items()}
                for camera, frames in cameras.items()
            }
            for object_id, cameras in take.masks.items()
        }
        annotated = {o: {c: list(f) for c, f in cameras.items()} for o, cameras in take.annotated_frames.items()}
        takes[take.take_uid] = {
            "masks": masks, "annotated_frames": annotated, "subsample_idx": list(take.sampled_frames)
        }  # fmt: skip
    path.write_text(json.dumps({"version": "1", "challenge": "correspondence", "annotations": takes}))


def write_guesses(annotations: Annotations, folder: Path) -> dict[Direction, int]:
    """Plausible predictions: the truth moved by some pixels, a spot where there is none; returns scored samples."""
    rng, counts = np.random.default_rng(0), {}
    for direction in Direction:
        results, counts[direction] = {}, 0
        for take in annotations:
            answers: dict[str, Any] = {}
            for object_id, pairs in required_keys(take, direction).items():
                answers[object_id] = {}
                for (query, target), frames in pairs.items():
                    own = {}
                    for frame in frames:
                        truth = take.masks[object_id].get(target, {}).get(frame)
                        hw = scored_hw(take.camera_hw[target])
                        mask = np.zeros(hw, bool)
                        mask[5:9, 5:9] = True
                        if truth is not None:
                            mask = np.roll(resize_nearest(rle_to_mask(truth), hw), rng.integers(-8, 9, 2), (0, 1))
                        own[str(frame)] = {"pred_mask": mask_to_rle(mask).to_json(), "confidence": rng.random()}
                        counts[direction] += frame in take.annotated_frames[object_id].get(target, ())
                    answers[object_id][pair_key(query, target)] = own
            results[take.take_uid] = {"masks": answers, "subsample_idx": list(take.sampled_frames)}
        value = {direction.challenge_key: {"version": "1", "challenge": "correspondence", "results": results}}
        (folder / f"{direction.value}.json").write_text(json.dumps(value))
    return counts


def copy_takes(folder: Path, copies: Path) -> Path:
    """The files of a folder with every take `COPIES` times, under other uids."""
    copies.mkdir()
    for path in (folder / "gt.json", *(folder / f"{direction.value}.json" for direction in Direction)):
        value = json.loads(path.read_bytes())
        for part in [value] if "annotations" in value else value.values():
            key = "annotations" if "annotations" in part else "results"
            part[key] = {f"{uid}-{copy}": take for uid, take in part[key].items() for copy in range(COPIES)}
        (copies / path.name).write_text(json.dumps(value))
    return copies


def compare(folder: Path, direction: Direction, samples: int, options: argparse.Namespace) -> None:
    rows, copies = {}, copy_takes(folder, folder / f"copies-{direction.value}")
    for workers in (1, 2):
        name = f"xseg, {workers} process{'es' * (workers > 1)}"
        rows[name] = (samples, evaluate(folder, direction, workers))
        rows[f"{name}, takes {COPIES} times"] = (COPIES * samples, evaluate(copies, direction, workers))
    scores = json.loads((folder / "scores.json").read_bytes())[direction.value]
    if options.official:
        script = options.official / f"evaluate_{direction.value.replace('2', '')}.py"
        files = ("--gt-file", folder / "gt.json", "--pred-file", folder / f"{direction.value}.json")
        seconds, output = run([options.python, script, *files])
        rows["official"] = (samples, seconds)
        for name, label in FIGURES.items():
            theirs = float(re.search(rf"{label}: +(\S+)", output).group(1))
            assert abs(theirs - scores[name]) < 1e-9, (name, theirs, scores[name])
    print(f"{direction.value}: {samples} samples" + ", equal scores" * bool(options.official))
    for name, (count, seconds) in rows.items():
        each = [1000 * value / count for value in seconds]
        line = f"  {name}: {seconds[0]:.2f} s, {seconds[1]:.2f} s of processors"
        line += f"; ms a sample: {each[0]:.3f}, {each[1]:.3f}"
        if "official" in rows:
            theirs = [1000 * value / samples for value in rows["official"][1]]
            line += f"; official takes {theirs[0] / each[0]:.1f} and {theirs[1] / each[1]:.1f} times as much"
        print(line)


def evaluate(folder: Path, direction: Direction, workers: int) -> tuple[float, float]:
    """Seconds by the clock and of processors; scores are in the folder's scores.json."""
    command = [sys.executable, "-m", "egoexo_xseg", "evaluate", folder / f"{direction.value}.json", "--annotations"]
    command += [folder / "gt.json", "--workers", workers, "--json", folder / "scores.json"]
    return run(command)[0]


def run(command: list[object]) -> tuple[tuple[float, float], str]:
    """Seconds by the clock and of processors that a whole process took, one core a process, and what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    before, began = processor_seconds(), time.perf_counter()
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True, env=environment)
    return (time.perf_counter() - began, processor_seconds() - before), done.stdout


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
