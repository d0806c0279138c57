"""`xseg prepare` against the official script, on the same full-size recordings, one after the other.

    python benchmarks/prepare.py --official CLONE/correspondence/SegSwap/data/process_data.py --python PYTHON

The official script (https://github.com/EGO4D/ego-exo4d-relation) needs decord, lzstring, numpy, opencv-python-headless,
pillow and pycocotools. Without --official only ours is timed. Whole processes are, start included; memory is that of
all their processes together, looked at thirty times a second (Linux only).

Two kinds of recordings: sample takes, whose pictures are held for a second, which is also a group of pictures; and one
take as x264 codes it by itself: moving in every frame, 250 frames a group, frames that others refer to and such that
none does. The official script writes no frame of less than 1408 rows, so recordings of 448p are not compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from egoexo_xseg.data.images import import_cv2
from egoexo_xseg.jobs.sample import write_sample

MOVE = 3
"""Pixels that the moving recordings' pictures go sideways in each frame."""


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock and of processors, and gigabytes at most."""

    seconds: float
    processors: float
    memory: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, help="the file process_data.py")
    parser.add_argument("--python", default=sys.executable, help="interpreter that can run it")
    parser.add_argument("--takes", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=20, help="length of the moving take")
    parser.add_argument("--folder", type=Path, help="keep recordings here, and use those that are there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        if not (folder / "held").is_dir():
            write_sample(folder / "held", seed=5, takes=options.takes, split="val", full_size=True)
        if not (folder / "moving").is_dir():
            write_moving(folder / "held", folder / "moving", options.seconds)
        for kind in ("held", "moving"):
            compare(folder / kind, Path(name) / kind, options)


def write_moving(held: Path, raw: Path, seconds: int) -> None:
    """The first take once more, longer: each camera's first picture with some grain, moving."""
    path = Path("annotations", "relations_val.json")
    uid, take = next(iter(json.loads((held / path).read_bytes())["annotations"].items()))
    videos = Path("takes", take["take_name"], "frame_aligned_videos")
    (raw / "annotations").mkdir(parents=True)
    (raw / videos).mkdir(parents=True)
    (raw / path).write_text(json.dumps({"annotations": {uid: take}}))
    (raw / "split.json").write_text(json.dumps({"val": [uid]}))
    (raw / "takes.json").write_text(json.dumps([{"take_uid": uid, "take_name": take["take_name"]}]))
    cv2, rng = import_cv2(), np.random.default_rng(0)
    for source in sorted((held / videos).glob("*.mp4")):
        with av.open(str(source)) as container:
            picture = next(container.decode(video=0)).to_ndarray(format="bgr24")
        wide = np.concatenate([picture, picture], 1)
        wide = cv2.add(wide, rng.integers(0, 12, wide.shape, np.uint8))
        with av.open(str(raw / videos / source.name), "w") as container:
            stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast"})
            stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv420p"
            for index in range(30 * seconds):
                left = MOVE * index % picture.shape[1]
                planes = cv2.cvtColor(wide[:, left : left + picture.shape[1]], cv2.COLOR_BGR2YUV_I420)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
            container.mux(stream.encode())


def compare(raw: Path, out: Path, options: argparse.Namespace) -> None:
    ours = run([sys.executable, "-m", "egoexo_xseg", "prepare", raw, out / "ours", "--split", "val"])
    frames = sorted((out / "ours").rglob("*.jpg"))
    print(f"{raw.name}: {len(frames)} frames")
    if options.official:
        command = [options.python, options.official, "--takepath", raw / "takes", "--outputpath", out / "theirs"]
        command += ["--annotationpath", raw / "annotations" / "relations_val.json"]
        theirs = run([*command, "--split_path", raw / "split.json", "--split", "val"])
        same = [path.read_bytes() == (out / "theirs" / path.relative_to(out / "ours")).read_bytes() for path in frames]
        print(f"  official script: {tell(theirs)}; {sum(same)} of the frames are the same bytes")
    print(f"  xseg prepare: {tell(ours)}", end="")
    print(f"; {theirs.seconds / ours.seconds:.1f} times as fast" if options.official else "", flush=True)


def tell(cost: Cost) -> str:
    return f"{cost.seconds:.2f} s, {cost.processors:.2f} s of processors, {cost.memory:.2f} GB"


def run(command: list[object]) -> Cost:
    before, began, memory = processor_seconds(), time.perf_counter(), 0
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([str(part) for part in command], stdout=output, stderr=output)
        while process.poll() is None:
            memory = max(memory, sum(map(proportional_set, descendants(process.pid))))
            time.sleep(1 / 30)
        output.seek(0)
        assert process.returncode == 0, output.read().decode()
    return Cost(time.perf_counter() - began, processor_seconds() - before, memory / 1e6)


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def descendants(pid: int) -> list[int]:
    """The process and all that it started, directly or not."""
    try:
        children = " ".join(path.read_text() for path in Path("/proc", str(pid), "task").glob("*/children"))
    except OSError:
        return []
    return [pid, *(own for child in children.split() for own in descendants(int(child)))]


def proportional_set(pid: int) -> int:
    """Kilobytes, those that processes share divided among them."""
    try:
        lines = Path("/proc", str(pid), "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
