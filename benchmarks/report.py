"""How long a report of 100,000 answers takes to make and to open: python benchmarks/report.py --takes 330.

Takes, masks and answers are made up (ellipses of full annotated size); frames are real JPEGs, a few of them under many
names. With chromium installed, the page is opened and scrolled as well.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.data.pairs import iter_pairs
from egoexo_xseg.data.submission import SubmissionWriter
from egoexo_xseg.masks import Rle, mask_to_rle, scored_hw
from egoexo_xseg.records import Direction

CAMERAS = {"aria01_214-1": (1408, 1408), "cam01": (2160, 3840), "cam02": (2160, 3840)}
OBJECTS, FRAMES, SHAPES = 5, 17, 60
SCENARIOS = ("Cooking", "Health", "Bike Repair", "Music", "Basketball", "Soccer")

PROBE = """<script>
addEventListener("load", () => setTimeout(async () => {
  const paint = performance.getEntriesByName("first-contentful-paint")[0]?.startTime, gaps = [];
  let before = performance.now();
  for (let top = 0; top < document.body.scrollHeight; top += 200) {
    scrollTo({ top, behavior: "instant" });
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    gaps.push(now - before); before = now;
  }
  gaps.sort((a, b) => a - b);
  const { loadEventEnd, navigationStart } = performance.timing;
  console.log("PROBE " + JSON.stringify({ paint, load: loadEventEnd - navigationStart,
    middle: gaps[gaps.length >> 1], longest: gaps.at(-1), frames: gaps.length }));
}, 500));
</script>"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--takes", type=int, default=330)
    parser.add_argument("--keep", type=Path, help="Leave everything in this folder.")
    args = parser.parse_args()
    folder = args.keep or Path(tempfile.mkdtemp())
    data, submission = folder / "data", folder / "submission.json"
    if not submission.is_file():
        make_takes(data, args.takes)
        answer(data, submission)
    began = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "egoexo_xseg",
        "report",
        submission,
        "--annotations",
        data,
        "--out",
        folder / "report",
    ]
    subprocess.run(command, check=True)
    seconds, memory = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    page = folder / "report" / "index.html"
    count = sum(map(int, re.findall(r'"samples":(\d+),"visible"', page.read_text())))
    size = page.stat().st_size / 1e6
    print(f"{count:,} answers: {seconds:.0f} s, {memory / 1e6:.2f} GB in the largest process, {size:.1f} MB")
    if shutil.which("chromium"):
        print(json.dumps(browse(page, folder)))
    if not args.keep:
        shutil.rmtree(folder)


def make_takes(data: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    shapes = {hw: [ellipse(rng, hw) for _ in range(SHAPES)] for hw in set(CAMERAS.values())}
    frames = [30 * index for index in range(FRAMES)]
    first: dict[str, Path] = {}
    for number in range(count):
        folder = data / f"take-{number:04d}"
        masks: dict = {}
        for index in range(OBJECTS):
            masks[f"object {index}"] = {
                camera: {str(frame): shapes[hw][int(rng.integers(SHAPES))].to_json() for frame in frames
                         if camera.startswith("aria") or rng.random() < 0.8}
                for camera, hw in CAMERAS.items()
            }  # fmt: skip
        for camera, (height, width) in CAMERAS.items():
            (folder / camera).mkdir(parents=True)
            for frame in frames:
                path = folder / camera / f"{frame}.jpg"
                if camera in first:
                    os.link(first[camera], path)
                else:
                    noise = Image.fromarray(rng.integers(0, 255, (54, 96, 3), np.uint8))
                    noise.resize((width // 4, height // 4), Image.Resampling.BICUBIC).save(path, quality=95)
                    first[camera] = path
        entry = {
            "masks": masks,
            "subsample_idx": frames,
            "annotated_frames": {name: dict.fromkeys(CAMERAS, frames) for name in masks},
            "camera_size": CAMERAS,
            "take_name": f"made_up_{number}",
            "scenario": SCENARIOS[number % len(SCENARIOS)],
        }
        (folder / "annotation.json").write_text(json.dumps(entry))


def ellipse(rng: np.random.Generator, hw: tuple[int, int]) -> Rle:
    """A disk of 0.05% to 5% of the image."""
    height, width = hw
    reach = np.sqrt(np.exp(rng.uniform(np.log(5e-4), np.log(0.05))) * height * width / np.pi)
    row, column = rng.uniform(0.2, 0.8) * height, rng.uniform(0.2, 0.8) * width
    rows, columns = np.ogrid[:height, :width]
    return mask_to_rle((rows - row) ** 2 + (columns - column) ** 2 < reach**2)


def answer(data: Path, path: Path) -> None:
    """Disks that are somewhere, and confidences that know a little."""
    rng = np.random.default_rng(1)
    shapes = {hw: [ellipse(rng, hw) for _ in range(SHAPES)] for hw in map(scored_hw, set(CAMERAS.values()))}
    annotations = open_annotations(data)
    with path.open("w") as file:
        writer = SubmissionWriter(file)
        for direction in Direction:
            takes = []
            for take in annotations:
                answers: dict = {}
                for pair in iter_pairs(take, direction):
                    own = shapes[scored_hw(pair.target_hw)]
                    for item in pair.objects:
                        cameras = answers.setdefault(item.object_id, {}).setdefault(
                            (pair.query_camera, pair.target_camera), {}
                        )
                        confidence = float(np.clip(rng.normal(0.7 if item.visible else 0.35, 0.2), 0, 1))
                        cameras[pair.frame] = own[int(rng.integers(SHAPES))], confidence
                takes.append((take.take_uid, answers, list(take.sampled_frames)))
            writer.write_direction(direction, takes)
        writer.close()


def browse(page: Path, folder: Path) -> dict[str, float]:
    """Milliseconds to the first paint and to the end of loading, and between frames while the page scrolls."""
    probed = folder / "probed.html"
    probed.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
               "--disable-background-networking", "--enable-logging=stderr", "--window-size=1280,900",
               "--remote-debugging-port=0", f"--user-data-dir={folder / 'browser'}", probed.as_uri()]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as browser:
        try:
            for line in browser.stderr:
                if "PROBE " in line:
                    return json.loads(line.split("PROBE ")[1].split('", source')[0])
        finally:
            os.killpg(browser.pid, signal.SIGTERM)
    raise SystemExit("the browser said nothing")


if __name__ == "__main__":
    main()
