"""From the raw release to frames and annotations: one folder a take, written whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from egoexo_xseg.data.annotations import Fault, Take, UnreadTake, likely_size, open_annotations
from egoexo_xseg.data.sources import NAME, read_json
from egoexo_xseg.data.videos import SMALL, STRIDE, Saved, Video, save_frames
from egoexo_xseg.errors import AnnotationError, MediaError
from egoexo_xseg.files import load_json, written_whole
from egoexo_xseg.parallel import map_ahead, map_processes
from egoexo_xseg.progress import track
from egoexo_xseg.records import is_ego

COLOUR_STREAM = "_214-1"
"""Of an Aria recording's streams the one that the annotations are about."""

MAX_THREADS = 4
"""Of one take: each holds some frames of full size."""

FRAME = re.compile(r"[0-9]{1,9}\.jpg")
"""The name of a frame's file."""

SAME_SHAPE = 0.01
"""Shares of width and height that differ by less are the same but for rounding."""


@dataclass
class PrepareSummary:
    """What a run did; `skipped` and `notes` say which takes and cameras are not whole, and why."""

    prepared: int = 0
    already: int = 0
    frames: int = 0
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def add(self, result: _Result) -> None:
        self.frames += result.frames
        self.notes += result.notes
        self.faults += result.faults
        self.prepared += not result.skipped
        self.skipped += [result.skipped] if result.skipped else []

    def rows(self) -> list[tuple[str, object]]:
        return [
            ("takes prepared", self.prepared),
            ("takes that were already there", self.already),
            ("takes skipped", len(self.skipped)),
            ("frames written", self.frames),
            ("videos missing or cut short", len(self.notes)),
            ("masks skipped as faulty", len(self.faults)),
        ]


@dataclass(frozen=True)
class _Listing:
    """What takes.json says of a take."""

    name: str
    cameras: frozenset[str]


@dataclass(frozen=True)
class _Order:
    """One take to prepare: where its videos are, which cameras it should have, and where it goes."""

    unread: UnreadTake
    videos: Path
    cameras: frozenset[str]
    folder: Path


@dataclass(frozen=True)
class _Result:
    """What became of a take: `length` is that of its ego video, 0 where it was skipped."""

    frames: int = 0
    skipped: str | None = None
    notes: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    length: int = 0
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)


def prepare(
    raw: Path, data: Path, *, split: str | None = None, takes: Sequence[str] = (), workers: int | None = None
) -> PrepareSummary:
    """Prepare the takes of one split, or of all whose annotations are there.

    Reads full-size videos where they are, else those of `downscaled/448`. A finished take is skipped, an interrupted
    one done anew. Faults of the release (missing or short videos, takes without a name, broken masks) are reported.
    """
    files = _annotation_files(raw, split)
    _check_takes(files, takes)
    summary, listings = PrepareSummary(), _read_listings(raw)
    for path in files:
        annotations = open_annotations(path)
        names = {uid: annotations.name(uid) for uid in annotations.take_uids}
        uids = [uid for uid, name in names.items() if not takes or uid in takes or name in takes]
        orders: list[_Order] = []
        for uid in uids:
            listing = listings.get(uid, _Listing(names[uid], frozenset()))
            if (data / uid / "annotation.json").is_file():
                summary.already += 1
            elif not NAME.fullmatch(listing.name):
                problem = f"it is not in takes.json and has no usable name ({listing.name!r})"
                summary.skipped.append(f"take {uid}: {problem}")
            else:
                _refuse_others(data / uid)
                videos = raw / "takes" / listing.name / "frame_aligned_videos"
                orders.append(_Order(annotations.unread(uid), videos, listing.cameras, data / uid))
        # A take that is neither in takes.json nor on the disk is not an official one; one that is not chosen may be.
        official = [
            uid
            for uid, name in names.items()
            if not listings or uid in listings or (NAME.fullmatch(name) and (raw / "takes" / name).is_dir())
        ]
        merge_split(data, path.stem.removeprefix("relations_"), official)
        # Where there are more processors than takes, each take is decoded by several threads.
        threads = min(MAX_THREADS, max(1, (workers or os.cpu_count() or 1) // max(1, len(orders))))
        results = map_processes(partial(_prepare_take, threads=threads), orders, workers)
        for result in track(results, "Preparing takes", total=len(orders)):
            summary.add(result)
    return summary


def _check_takes(files: Sequence[Path], takes: Sequence[str]) -> None:
    """Refuse a name that no file knows, before anything is done."""
    unknown = set(takes)
    for path in files:
        if unknown:
            annotations = open_annotations(path)
            unknown -= {known for uid in annotations.take_uids for known in (uid, annotations.name(uid))}
    if unknown:
        raise AnnotationError(f"no take {min(unknown)!r} here", where=files[0].parent)


def _refuse_others(folder: Path) -> None:
    """Refuse to put a take where there is something else than frames, such as another program left unfinished."""
    if folder.is_dir() and not folder.is_symlink():
        entries = [path for path in folder.rglob("*") if not path.is_dir()]
        if all(len(path.relative_to(folder).parts) == 2 and FRAME.fullmatch(path.name) for path in entries):
            return
    if folder.exists() or folder.is_symlink():
        raise AnnotationError("something else is in the way", where=folder, remedy="Choose another folder as DATA")


def _annotation_files(raw: Path, split: str | None) -> list[Path]:
    folder = raw / "annotations"
    if split is not None and not NAME.fullmatch(split):
        raise AnnotationError(f"not a split's name: {split!r}", where=raw)
    files = sorted(folder.glob("relations_*.json")) if split is None else [folder / f"relations_{split}.json"]
    if not files or not files[0].is_file():
        raise AnnotationError(
            f"no annotations/relations_{split or '*'}.json here", where=raw, remedy="Download part `annotations`"
        )
    return files


def _read_listings(raw: Path) -> dict[str, _Listing]:
    """Takes by uid from takes.json; only those in it are official, but older downloads lack the file."""
    path = raw / "takes.json"
    takes = load_json(path, AnnotationError) if path.is_file() else []
    listings = {}
    for take in takes if isinstance(takes, list) else []:
        uid, name = (take.get(key) for key in ("take_uid", "take_name")) if isinstance(take, dict) else (None, None)
        if isinstance(uid, str) and isinstance(name, str):
            listings[uid] = _Listing(name, frozenset(_iter_cameras(take)))
    return listings


def _iter_cameras(take: dict[str, Any]) -> Iterator[str]:
    """Cameras as the annotations call them, of Aria glasses the one that sees colours."""
    capture = take.get("capture")
    cameras = capture.get("cameras") if isinstance(capture, dict) else None
    for camera in cameras if isinstance(cameras, list) else []:
        name = camera.get("cam_id") if isinstance(camera, dict) else None
        if isinstance(name, str) and NAME.fullmatch(name):
            yield f"{name}{COLOUR_STREAM}" if is_ego(name) else name


def merge_split(data: Path, split: str, uids: Sequence[str]) -> None:
    path = data / "split.json"
    splits: dict[str, Any] = read_json(path) if path.is_file() else {}
    known = splits.get(split)
    known = known if isinstance(known, list) else []
    write_json(path, splits | {split: known + [uid for uid in uids if uid not in known]})


def _prepare_take(order: _Order, threads: int) -> _Result:
    """Write one take under a temporary name, then give it its own."""
    take, faults = order.unread.read()
    unfinished = order.folder.with_name(f".{order.folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        result = _save_videos(take, order, unfinished, threads)
        if result.length:
            take = replace(take, camera_hw=result.sizes)
            write_json(unfinished / "annotation.json", take_to_json(take, range(0, result.length, STRIDE)))
            shutil.rmtree(order.folder, ignore_errors=True)  # frames that another program left unfinished
            os.replace(unfinished, order.folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return replace(result, faults=tuple(faults))


def _save_videos(take: Take, order: _Order, folder: Path, threads: int) -> _Result:
    """Frames of every camera, ego first: its length is the take's."""
    place = f"take {take.take_uid}"
    videos = {camera: Video.find(order.videos, camera) for camera in _cameras(take, order)}
    egos = [camera for camera in videos if is_ego(camera)]
    if not egos:
        return _Result(skipped=f"{place}: no ego camera in its annotations")
    if not any(videos[camera] for camera in egos):
        return _Result(skipped=f"{place}: no video of its ego camera in {order.videos}")
    notes = [f"{place}, camera {camera}: no video" for camera, video in videos.items() if video is None]
    wanted = {camera: {f for masks in take.masks.values() for f in masks.get(camera, ())} for camera in videos}
    length, frames, sizes = 0, 0, dict(take.camera_hw)

    def save(camera: str, threads: int) -> Saved | MediaError:
        try:
            return save_frames(videos[camera], folder, wanted[camera], length or None, threads)
        except MediaError as fault:
            shutil.rmtree(folder / camera)
            return fault

    outcomes: dict[str, Saved | MediaError] = {}
    for camera in egos:
        if videos[camera] is not None:
            outcomes[camera] = saved = save(camera, threads)
            length = length or (saved.count if isinstance(saved, Saved) else 0)
    exos = [camera for camera, video in videos.items() if video is not None and camera not in egos]
    if length and exos:
        each = max(1, threads // len(exos))
        outcomes |= zip(exos, map_ahead(partial(save, threads=each), exos, threads), strict=True)
    for camera, saved in outcomes.items():
        if isinstance(saved, MediaError):
            notes.append(f"{place}, camera {camera}: {saved}")
            continue
        frames += saved.saved
        if camera in take.guessed or camera not in sizes:
            sizes[camera] = _original_size(videos[camera], saved, sizes)
        last = max(wanted[camera], default=-1)
        if last >= saved.count:
            notes.append(f"{place}, camera {camera}: the video ends at frame {saved.count}, masks go on to {last}")
    if not length:
        return _Result(skipped=notes[-1])
    return _Result(frames, notes=tuple(notes), length=length, sizes=sizes)


def _cameras(take: Take, order: _Order) -> list[str]:
    """The take's cameras, ego first.

    Of a side that no object lists, since its masks are hidden: all that takes.json names or that have a video.
    """
    cameras = set(take.cameras)
    found = {path.stem for folder in (order.videos, order.videos / SMALL) for path in folder.glob("*.mp4")}
    found = {camera for camera in found if NAME.fullmatch(camera) and camera.endswith(COLOUR_STREAM) == is_ego(camera)}
    for side in (True, False):
        if not any(is_ego(camera) is side for camera in take.cameras):
            cameras |= {camera for camera in found | order.cameras if is_ego(camera) is side}
    return sorted(cameras, key=lambda camera: (not is_ego(camera), camera))


def _original_size(video: Video, saved: Saved, sizes: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """The full size of a camera that no mask tells it of: its own, or of a small video the likeliest of its shape."""
    if not video.small:
        return saved.hw
    others = {camera: hw for camera, hw in sizes.items() if camera != video.camera}
    likely = likely_size(video.camera, others)
    same = abs(likely[0] * saved.hw[1] / (likely[1] * saved.hw[0]) - 1) < SAME_SHAPE
    return likely if same else saved.hw


def take_to_json(take: Take, sampled: Sequence[int]) -> dict[str, Any]:
    """The official layout's fields, then those that its script drops; masks that cannot be used are null."""
    lost = {object_id: take.lost_frames.get(object_id, {}) for object_id in take.masks}
    return {
        "masks": {
            object_id: {
                camera: {
                    str(frame): masks[frame].to_json() if frame in masks else None
                    for frame in sorted({*masks, *lost[object_id].get(camera, ())})
                }
                for camera, masks in cameras.items()
            }
            for object_id, cameras in take.masks.items()
        },
        "subsample_idx": list(sampled),
        "annotated_frames": take.annotated_frames,
        "camera_size": take.camera_hw,
        "take_name": take.take_name,
        "scenario": take.scenario,
    }


def write_json(path: Path, value: object) -> None:
    with written_whole(path) as file:
        file.write(json.dumps(value))
