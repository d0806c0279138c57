"""Make up recordings in the raw release's own layout, from the sample world."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from egoexo_xseg.data.annotations import NAME
from egoexo_xseg.data.images import import_cv2
from egoexo_xseg.data.lzstring import compress
from egoexo_xseg.errors import XsegError
from egoexo_xseg.files import written_whole
from egoexo_xseg.parallel import map_processes
from egoexo_xseg.progress import track
from egoexo_xseg.world.camera import Camera
from egoexo_xseg.world.draws import SMALL_SIDE, world_seed
from egoexo_xseg.world.recording import FPS, Cast, SampleFigures, cast_masks
from egoexo_xseg.world.render import render
from egoexo_xseg.world.scene import Scene, make_scene
from egoexo_xseg.world.things import count_look_alikes

EGO = "aria01_214-1"
EGO_HW = (1408, 1408)
EXO_HWS = ((2160, 3840), (1520, 2704))
"""Original sizes: takes alternate between them."""

SECONDS = range(8, 14)
"""How long takes are; each second has one annotated frame."""

ATTEMPTS = 16
"""Scenes that a take may try; about two of three are hard enough."""

MIN_OBJECTS = 4

MARK = "xseg sample"
"""The `source` of a sample take in takes.json: folders with other recordings are left alone."""

# x264's look-ahead reads memory that it never wrote, so with it the bytes change from run to run.
_X264 = {"preset": "veryfast", "crf": "18", "sc_threshold": "0", "rc-lookahead": "0", "mbtree": "0"}
_SCENARIOS = ("Cooking", "Bike Repair", "Health", "Tidying up")


Tracks = dict[int, dict[str, dict[int, Cast]]]
"""Masks by label, camera and frame."""


@dataclass(frozen=True)
class _Order:
    """One take to write."""

    raw: Path
    seed: int
    split: str
    index: int
    full_size: bool

    def draw(self, what: str, attempt: int) -> int:
        """A seed of its own for everything that is drawn for the take."""
        return world_seed(what, self.seed, self.split, self.index, *[attempt] * (attempt > 0))

    @property
    def uid(self) -> str:
        return str(uuid.UUID(int=world_seed("take", self.seed, self.split, self.index), version=4))

    @property
    def name(self) -> str:
        return f"sample_{self.split}_{self.seed}_{self.index:03d}"


@dataclass(frozen=True)
class _Drawn:
    """A scene as it was recorded: cameras with their original sizes, masks in the release's form, and its figures."""

    scene: Scene
    seconds: int
    sizes: dict[str, tuple[int, int]]
    annotation: dict[str, Any]
    figures: SampleFigures


@dataclass(frozen=True)
class _Written:
    """One take's entries of takes.json and of the annotations, and its figures."""

    take: dict[str, Any]
    annotation: dict[str, Any]
    figures: SampleFigures


def write_sample(
    raw: Path, *, seed: int, takes: int, split: str, full_size: bool = False, workers: int | None = None
) -> SampleFigures:
    """Write `takes` takes of a split in the raw release's layout; the same call gives the same bytes.

    A split of the same name is replaced, other splits in the folder are kept. Scenes of different seeds, splits and
    indices are different ones; those that are too easy are drawn again. The world is posed once a second, where the
    annotations are; the videos have 30 frames a second like the release's, and each second's pose is held.
    """
    if not NAME.fullmatch(split):
        raise XsegError(f"not a split's name: {split!r}", where=raw, remedy="Use letters, digits, - and _")
    _read_index(raw, split)
    orders = [_Order(raw, seed, split, index, full_size) for index in range(takes)]
    figures, entries = SampleFigures(), []
    path = raw / "annotations" / f"relations_{split}.json"
    with written_whole(path) as file:
        file.write('{"annotations": {')
        for written in track(map_processes(_write_take, orders, workers), "Making takes", total=takes):
            uid = written.take["take_uid"]
            file.write(f"{', ' if entries else ''}{json.dumps(uid)}: {json.dumps(written.annotation)}")
            entries.append(written.take)
            figures.add(written.figures)
        file.write("}}\n")
        kept, splits = _read_index(raw, split)  # again: another split may have been made meanwhile
    _write_json(raw / "takes.json", sorted(kept + entries, key=lambda take: take["take_uid"]))
    splits[split] = [take["take_uid"] for take in entries]
    _write_json(raw / "split.json", dict(sorted(splits.items())))
    return figures


def _read_index(raw: Path, split: str) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """The takes of other splits, and all splits, of earlier runs; a folder that others made is refused."""
    try:
        takes = json.loads((raw / "takes.json").read_bytes()) if (raw / "takes.json").exists() else []
        splits = json.loads((raw / "split.json").read_bytes()) if (raw / "split.json").exists() else {}
        own = all(take["source"] == MARK for take in takes) and isinstance(splits, dict)
        replaced = set(splits.get(split, ())) if own else set()
        kept = [take for take in takes if take["take_uid"] not in replaced] if own else []
    except (ValueError, KeyError, TypeError, RecursionError):
        own = False
    if not own or (not takes and (raw / "annotations").exists() and any((raw / "annotations").glob("*.json"))):
        raise XsegError("the folder holds other recordings", where=raw, remedy="Give xseg sample a folder of its own")
    return kept, splits


def _write_take(order: _Order) -> _Written:
    """Write one take's videos under a temporary name, then give them their own."""
    drawn = _draw_take(order)
    folder = order.raw / "takes" / order.name
    partial = folder.with_name(f".{order.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write_videos(partial / "frame_aligned_videos", drawn, order.full_size)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _Written(_describe(order, list(drawn.sizes), drawn.seconds), drawn.annotation, drawn.figures)


def _write_videos(videos: Path, drawn: _Drawn, full_size: bool) -> None:
    """Those of every camera, as the official downloader lays them out."""
    (videos / "downscaled" / str(SMALL_SIDE)).mkdir(parents=True)
    for camera, hw in drawn.sizes.items():
        shots = [(drawn.scene.at(second), _camera_at(drawn.scene, camera, second)) for second in range(drawn.seconds)]
        small = (SMALL_SIDE, hw[1] * SMALL_SIDE // hw[0] // 2 * 2)
        pictures = (render(*shot, small)[0] for shot in shots)
        _write_video(videos / "downscaled" / str(SMALL_SIDE) / f"{camera}.mp4", pictures, small)
        if full_size:
            pictures = (_doubled(render(*shot, (hw[0] // 2, hw[1] // 2))[0]) for shot in shots)
            _write_video(videos / f"{camera}.mp4", pictures, hw)


def _draw_take(order: _Order) -> _Drawn:
    """The first of the take's scenes that is hard enough, so that small splits are as well."""
    for attempt in range(ATTEMPTS):
        drawn = _record(order, attempt)
        if drawn.figures.is_hard and drawn.figures.objects >= MIN_OBJECTS:
            break
    return drawn


def _record(order: _Order, attempt: int) -> _Drawn:
    """Let a scene happen, and annotate it."""
    rng = np.random.default_rng(order.draw("annotator", attempt))
    seconds = int(rng.integers(SECONDS.start, SECONDS.stop))
    scene = make_scene(order.draw("scene", attempt), duration=float(seconds))
    exo_hw = EXO_HWS[order.index % len(EXO_HWS)]
    sizes = {EGO: EGO_HW} | {f"cam{number:02d}": exo_hw for number in range(1, len(scene.exo) + 1)}
    masks: Tracks = {label: {camera: {} for camera in sizes} for label in range(1, len(scene.things) + 1)}
    for second in range(seconds):
        moment = scene.at(second)
        for camera, hw in sizes.items():
            for label, cast in cast_masks(moment, _camera_at(scene, camera, second), hw).items():
                masks[label][camera][second * FPS] = cast
    tracks, figures = _annotate(scene, masks, sizes, seconds, rng)
    annotation = {"scenario": str(rng.choice(_SCENARIOS)), "take_name": order.name, **tracks}
    return _Drawn(scene, seconds, sizes, annotation, figures)


def _camera_at(scene: Scene, camera: str, second: int) -> Camera:
    return scene.ego(second) if camera == EGO else scene.exo[int(camera[3:]) - 1]


def _doubled(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Full size at a quarter of the rays."""
    cv2 = import_cv2()
    return cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)


def _write_video(path: Path, pictures: Iterator[UInt8[np.ndarray, "H W 3"]], hw: tuple[int, int]) -> None:
    """Each picture held for a second, as one group of pictures; one thread, so that the bytes are always the same."""
    import av

    cv2 = import_cv2()
    with av.open(str(path), "w") as container:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        options = _X264 if codec == "libx264" else {"qscale": "2"}
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.height, stream.width = hw
        stream.pix_fmt, stream.gop_size, stream.max_b_frames = "yuv420p", FPS, 0
        stream.codec_context.thread_count = 1
        for second, image in enumerate(pictures):
            planes = cv2.cvtColor(
                image, cv2.COLOR_RGB2YUV_I420
            )  # FFmpeg's own differs in the last pixels of odd widths
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            for number in range(FPS):
                frame.pts = second * FPS + number
                container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _annotate(
    scene: Scene, masks: Tracks, sizes: dict[str, tuple[int, int]], seconds: int, rng: np.random.Generator
) -> tuple[dict[str, Any], SampleFigures]:
    """Object names and masks in the release's form, and the figures of the take."""
    figures = SampleFigures(takes=1, exo_cameras=len(sizes) - 1, frames=seconds)
    figures.look_alikes = count_look_alikes(
        [scene.things[label - 1] for label, seen in masks.items() if any(seen.values())]
    )
    named: dict[str, Any] = {}
    for label, cameras in masks.items():
        name = _name(scene.things[label - 1].caption, label - 1, rng)
        seen = {camera for camera, frames in cameras.items() if frames}
        figures.unseen_by_ego += EGO not in seen
        figures.unseen_by_exo += not seen - {EGO}
        looked = {
            camera: [second * FPS for second in range(seconds) if rng.random() > 0.05]
            for camera in sizes
            # Annotators often leave out the ego camera where it never sees an object.
            if camera != EGO or camera in seen or rng.random() < 0.6
        }
        if seen:
            named[name] = {
                camera: _track_to_json(
                    {f: cameras[camera][f] for f in frames if f in cameras[camera]}, frames, sizes[camera]
                )
                for camera, frames in looked.items()
            }
            figures.count(cameras, looked)
    figures.objects = len(named)
    boxes = {"annotation": [{"track_id": name, "frameNumber": 0} for name in named], "annotation_fps": FPS}
    return {"object_names": boxes, "object_masks": named}, figures


def _name(caption: str, number: int, rng: np.random.Generator) -> str:
    """Names as annotators type them: blanks, capitals, a number behind an underscore."""
    style = int(rng.integers(5))
    text = (caption, caption.title(), caption.upper(), f"{caption} ", caption)[style]
    return f"{text}_{number}{' ' if style == 4 else ''}"


def _track_to_json(masks: dict[int, Cast], looked: list[int], hw: tuple[int, int]) -> dict[str, Any]:
    height, width = hw
    return {
        "annotation": {
            str(frame): {"width": width, "height": height, "encodedMask": compress(cast.rle.counts)}
            for frame, cast in masks.items()
        },
        "annotation_fps": 1,
        "annotated_frames": looked,
    }


def _describe(order: _Order, cameras: list[str], seconds: int) -> dict[str, Any]:
    """The take's entry of takes.json."""
    streams: dict[str, Any] = {}
    listed = []
    for camera in cameras:
        ego = camera == EGO
        cam_id, stream = ("aria01", "rgb") if ego else (camera, "0")
        path = f"frame_aligned_videos/{camera}.mp4"
        streams[cam_id] = {stream: {"cam_id": cam_id, "stream_id": stream, "relative_path": path}}
        listed.append({"cam_id": cam_id, "is_ego": ego, "device_type": "aria" if ego else "gopro"})
    return {
        "take_uid": order.uid,
        "take_name": order.name,
        "root_dir": f"takes/{order.name}",
        "source": MARK,
        "best_exo": cameras[1],
        "task_start_sec": 0.0,
        "duration_sec": float(seconds),
        "frame_aligned_videos": streams,
        "capture": {"capture_name": order.name, "cameras": listed},
    }


def _write_json(path: Path, value: object) -> None:
    with written_whole(path) as file:
        file.write(json.dumps(value, indent=1))
