"""From the raw release to frames and annotations: one folder a take, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from egoexo_xseg.data.annotations import NAME, Fault, Take, open_annotations, read_json
from egoexo_xseg.data.images import frame_path, import_cv2
from egoexo_xseg.errors import AnnotationError, MediaError
from egoexo_xseg.masks import MAX_SIDE
from egoexo_xseg.parallel import map_processes
from egoexo_xseg.progress import detail, track
from egoexo_xseg.records import is_ego

STRIDE = 30
"""The videos have 30 frames a second, the annotations one."""

SHRINK = {True: 2, False: 4}
"""Full-size frames are kept at a half (ego) and a quarter (exo), as in the official baseline."""

JPEG_QUALITY = 95


@dataclass
class PrepareSummary:
    """What a run did; `skipped` and `notes` say which takes and cameras are not whole, and why."""

    prepared: int = 0
    already: int = 0
    frames: int = 0
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

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
class _Order:
    """One take to prepare: where its videos are, and where it goes."""

    take: Take
    videos: Path
    folder: Path


@dataclass(frozen=True)
class _Result:
    frames: int = 0
    skipped: str | None = None
    notes: tuple[str, ...] = ()


def prepare(
    raw: Path, data: Path, *, split: str | None = None, takes: Sequence[str] = (), workers: int | None = None
) -> PrepareSummary:
    """Prepare the takes of one split, or of all whose annotations are there.

    Reads full-size videos where they are, else those of `downscaled/448`. A finished take is skipped, an interrupted
    one done anew. Faults of the release (missing or short videos, takes without a name, broken masks) are reported.
    """
    summary = PrepareSummary()
    names = _take_names(raw)
    data.mkdir(parents=True, exist_ok=True)
    orders: list[_Order] = []
    for path in _annotation_files(raw, split):
        annotations = open_annotations(path, takes=takes)
        _merge_split(data, path.stem.removeprefix("relations_"), annotations.take_uids)
        for uid in annotations.take_uids:
            if (data / uid / "annotation.json").is_file():
                summary.already += 1
                continue
            take = annotations.load(uid)
            name = names.get(uid) or take.take_name
            if not NAME.fullmatch(name):
                summary.skipped.append(f"take {uid}: it is not in takes.json and has no usable name ({name!r})")
                continue
            orders.append(_Order(take, raw / "takes" / name / "frame_aligned_videos", data / uid))
        summary.faults += annotations.faults
    for result in track(map_processes(_prepare_take, orders, workers), "Preparing takes", total=len(orders)):
        summary.frames += result.frames
        summary.notes += result.notes
        if result.skipped:
            summary.skipped.append(result.skipped)
        else:
            summary.prepared += 1
    for line in [*summary.skipped, *summary.notes, *map(str, summary.faults)]:
        detail(line)
    return summary


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


def _take_names(raw: Path) -> dict[str, str]:
    """Names by uid from takes.json; only takes in it are official, but older downloads lack the file."""
    try:
        takes = json.loads((raw / "takes.json").read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        raise AnnotationError("not readable as JSON", where=raw / "takes.json") from None
    takes = takes if isinstance(takes, list) else []
    entries = [(take.get("take_uid"), take.get("take_name")) for take in takes if isinstance(take, dict)]
    return {uid: name for uid, name in entries if isinstance(uid, str) and isinstance(name, str)}


def _merge_split(data: Path, split: str, uids: Sequence[str]) -> None:
    path = data / "split.json"
    splits: dict[str, Any] = read_json(path) if path.is_file() else {}
    known = splits.get(split)
    known = known if isinstance(known, list) else []
    _write_json(path, splits | {split: known + [uid for uid in uids if uid not in known]})


def _prepare_take(order: _Order) -> _Result:
    """Write one take under a temporary name, then give it its own."""
    take, place = order.take, f"take {order.take.take_uid}"
    partial = order.folder.with_name(f".{order.folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    egos = [camera for camera in take.cameras if is_ego(camera)]
    if not egos:
        return _Result(skipped=f"{place}: no ego camera in its annotations")
    videos = {camera: _find_video(order.videos, camera) for camera in take.cameras}
    if not any(videos[camera] for camera in egos):
        return _Result(skipped=f"{place}: no video of its ego camera in {order.videos}")
    notes = [f"{place}, camera {camera}: no video" for camera, video in videos.items() if video is None]
    length, saved = 0, 0
    for camera in sorted(take.cameras, key=lambda camera: (not is_ego(camera), camera)):
        if not is_ego(camera) and not length:
            break
        if videos[camera] is None:
            continue
        wanted = {frame for track in take.masks.values() for frame in track.get(camera, ())}
        try:
            count, own = _save_frames(videos[camera], partial, camera, wanted, length or None)
        except MediaError as fault:
            notes.append(f"{place}, camera {camera}: {fault}")
            shutil.rmtree(partial / camera)
            continue
        length, saved = length or count, saved + own
        if max(wanted, default=-1) >= count:
            notes.append(f"{place}, camera {camera}: the video ends at frame {count}, masks go on to {max(wanted)}")
    if not length:
        shutil.rmtree(partial, ignore_errors=True)
        return _Result(skipped=notes[-1])
    _write_json(partial / "annotation.json", _take_to_json(take, range(0, length, STRIDE)))
    os.replace(partial, order.folder)
    return _Result(saved, notes=tuple(notes))


def _find_video(videos: Path, camera: str) -> Path | None:
    """The full-size video if it is there, else the 448p one."""
    for path in (videos / f"{camera}.mp4", videos / "downscaled" / "448" / f"{camera}.mp4"):
        if path.is_file():
            return path
    return None


def _save_frames(video: Path, folder: Path, camera: str, wanted: set[int], limit: int | None) -> tuple[int, int]:
    """Save one frame a second and every wanted one, up to `limit`; returns how many there were, and were saved."""
    cv2 = import_cv2()
    shrink = 1 if video.parent.name == "448" else SHRINK[is_ego(camera)]
    (folder / camera).mkdir(parents=True, exist_ok=True)
    index = saved = 0
    for index, frame in enumerate(_iter_frames(video)):
        if index not in wanted and (index % STRIDE or (limit is not None and index >= limit)):
            continue
        image = frame.to_ndarray(format="bgr24")
        if shrink > 1:
            size = (image.shape[1] // shrink, image.shape[0] // shrink)
            image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        path = frame_path(folder, camera, index)
        if not cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
            raise MediaError("the frame could not be written", where=path, remedy="Is the disk full?")
        saved += 1
    return index + 1, saved


def _iter_frames(video: Path) -> Iterator[Any]:
    """Decoded frames one by one, so that memory stays bounded whatever the video's length."""
    import av

    decoded = False
    try:
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            if max(stream.width, stream.height) > MAX_SIDE:
                raise MediaError(f"frames of {stream.height}x{stream.width} are too large", where=video)
            for frame in container.decode(stream):
                decoded = True
                yield frame
    except (av.FFmpegError, IndexError, UnicodeDecodeError):
        # A cut file still holds its beginning.
        if not decoded:
            raise MediaError("not readable as a video", where=video) from None
    if not decoded:
        raise MediaError("a video without frames", where=video)


def _take_to_json(take: Take, sampled: range) -> dict[str, Any]:
    """The official layout's fields, then those that its script drops."""
    return {
        "masks": {
            object_id: {
                camera: {str(frame): rle.to_json() for frame, rle in sorted(masks.items())}
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


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, ensure_ascii=False), "utf-8")
    os.replace(partial, path)
