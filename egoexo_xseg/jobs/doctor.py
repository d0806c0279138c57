"""Whether this machine and this folder are ready, and what to run next."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from egoexo_xseg import __version__
from egoexo_xseg.data.annotations import NAME, Take, open_annotations
from egoexo_xseg.data.images import frame_path, import_cv2
from egoexo_xseg.data.pairs import required_keys
from egoexo_xseg.data.videos import STRIDE, Video
from egoexo_xseg.errors import XsegError
from egoexo_xseg.jobs.packages import Diagnosis, Finding, check_packages
from egoexo_xseg.jobs.weights import known_checkpoints
from egoexo_xseg.model.checkpoint import read_headers
from egoexo_xseg.model.configuration import CrossViewConfig
from egoexo_xseg.model.hub import find_cached
from egoexo_xseg.progress import track
from egoexo_xseg.records import Direction, is_ego

LISTED = 5
"""Takes named of each kind of fault."""

FULL_SIZE = 1.483e9
"""Parameters of the published models that play a part, two bytes each in float16, four in float32."""

DOWNLOAD_GB, TRANSLATED_GB = 6.4, 5.9
"""Of a published model on the disk: as it comes, and once more in the names of xseg, in float32."""

GB = 1e9

SPARE = 0.9
"""Of free memory what may be counted on: the rest is lost between blocks, and to the driver."""

OVERHEAD = 2
"""Numbers held for each that is counted: `weights/xseg-tiny` took 29 MB a record (16 against 1 at a time, float32)."""

NUMBER_BYTES = 4
"""Of what is alive between layers, in half precision too, where most of it stays in float32."""

DOWNLOAD = "--parts metadata annotations downscaled_takes/448 --benchmarks correspondence relations"
"""What the official downloader is told besides where to put it and which splits."""

MOST_RECORDS = 64
"""Larger batches are no faster."""

FRAME_BYTES = 70e3
"""A frame of 448 pixels, measured in the sample world, where nothing was prepared to measure it on."""

MEASURED = 200
"""Frames looked at to learn how large they are."""


def diagnose(
    data: Path | None = None, split: str | None = None, raw: Path | None = None, model: str | None = None
) -> Diagnosis:
    """Look at the machine, the packages, the models and, if given, at recordings in `raw` and prepared takes in `data`.

    `model` is a checkpoint folder, or a repository in the cache; nothing is downloaded.
    """
    shape, parameters, fault = _model(model)
    findings = [*_machine(), *([fault] if fault else _memory(shape, parameters)), *_packages(), *_models()]
    chosen = f" --split {split}" if split else ""
    if raw is not None:
        findings += _recordings(raw, split, data)
        if not any((raw / "annotations").glob(f"relations_{split or '*'}.json")):
            splits = split or "train val test"
            return Diagnosis(findings, f"egoexo -o {raw} {DOWNLOAD} --splits {splits}")
    if data is None:
        if raw is not None:
            return Diagnosis(findings, f"xseg prepare {raw} DATA{chosen}")
        return Diagnosis(findings, "xseg demo   or, with the release in RAW: xseg prepare RAW DATA --split val")
    own, ready = _takes(data, split)
    free = _free_memory()
    batch = suggest_batch(shape, parameters, free)
    sized = f" --batch-size {batch}" if batch and free.is_gpu else ""
    given = f" --model {model}" if model else ""
    following = f"xseg predict --direction both --data {data}{chosen}{given}{sized} --out PRED"
    if not ready and any((data / "annotations").glob("relations_*.json")):
        return Diagnosis([*findings, *own], f"xseg prepare {data} DATA{chosen}")
    return Diagnosis([*findings, *own], following if ready else f"xseg prepare {raw or 'RAW'} {data}{chosen}")


def _machine() -> list[Finding]:
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB
    findings = [
        Finding("xseg, Python", f"{__version__}, {platform.python_version()} on {platform.platform(terse=True)}"),
        Finding("processors, memory", f"{os.cpu_count()}, {memory:.0f} GB"),
        Finding("torch", torch.__version__),
    ]
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        room = f"{free / GB:.0f} of {total / GB:.0f} GB free"
        findings.append(Finding(f"GPU {number}", f"{torch.cuda.get_device_name(number)}, {room}"))
    if not torch.cuda.is_available():
        findings.append(Finding("GPU", "none: everything runs on the processors", "note"))
    return findings


@dataclass(frozen=True, slots=True)
class FreeMemory:
    """What a model may take: bytes, and how many of them a weight takes there."""

    is_gpu: bool
    num_bytes: int
    width: int


def _free_memory() -> FreeMemory:
    """Of the first GPU, where models run in float16, or of the machine, where they run in float32."""
    import torch

    if torch.cuda.is_available():
        return FreeMemory(True, torch.cuda.mem_get_info(0)[0], 2)
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"  # macOS tells all it has
    return FreeMemory(False, os.sysconf("SC_PAGE_SIZE") * os.sysconf(pages), 4)


def record_numbers(config: CrossViewConfig) -> int:
    """An estimate of the numbers that are alive at once for a record: those of the finest maps, and the language's.

    At a quarter of the image's side: ten widths in the widest block of the image tower (input, a fourfold layer before
    and after its activation, the sum), both images' maps, three of the pixel decoder's, and the proposals' masks.
    """
    fine = (config.image_size // config.swin.patch_size) ** 2
    maps = 2 * 1.9 * config.swin.embed_dim  # each later map has half the numbers of the one before
    image = fine * (
        10 * config.swin.embed_dim + maps + 3 * config.decoder.mask_dim + 2 * config.decoder.num_mask_tokens
    )
    tokens = config.grid[0] * config.grid[1] + config.decoder.num_mask_tokens + 200  # the words of a prompt
    language = tokens * (6 * config.language.hidden_size + 2 * config.language.intermediate_size)
    return int(OVERHEAD * (image + language))


def suggest_batch(config: CrossViewConfig, parameters: int, free: FreeMemory) -> int:
    """Records at a time that fit beside the weights; 0 if not even one does."""
    room = SPARE * free.num_bytes - free.width * parameters
    return max(0, min(MOST_RECORDS, int(room // (NUMBER_BYTES * record_numbers(config)))))


def _model(model: str | None) -> tuple[CrossViewConfig, int, Finding | None]:
    """Shape and parameters by the files' headers; of the published size where no model is given."""
    published = CrossViewConfig()
    if model is None:
        return published, int(FULL_SIZE), None
    folder = Path(model) if Path(model).is_dir() else find_cached(model)
    if folder is None:
        return published, int(FULL_SIZE), Finding("model", f"{model}: no such folder, and not downloaded", "fault")
    try:
        headers = read_headers(folder)
    except XsegError as fault:
        return published, int(FULL_SIZE), Finding("model", str(fault), "fault")
    return headers.config, sum(tensor.numel() for tensor in headers.weights.values()), None


def _memory(config: CrossViewConfig, parameters: int) -> list[Finding]:
    free = _free_memory()
    batch = suggest_batch(config, parameters, free)
    weights, record = free.width * parameters / GB, NUMBER_BYTES * record_numbers(config) / GB
    words = (
        f"{parameters / 1e6:,.0f} million parameters take {weights:.1f} GB, a record about {record:.2f} GB "
        f"(estimated), {free.num_bytes / GB:.0f} GB are free: "
    )
    if not batch:
        return [Finding("model", f"{words}too little", "note")]
    return [Finding("model", words + (f"give --batch-size {batch}" if free.is_gpu else "it fits"))]


def _packages() -> list[Finding]:
    """Those that everything needs, and OpenCV, without which much runs."""
    try:
        import_cv2()
    except XsegError as fault:
        return [*check_packages(), Finding("OpenCV", str(fault), "fault")]
    return check_packages()


def _models() -> list[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE

    here = [each.name for each in known_checkpoints() if each.folders]
    place = Path(HF_HUB_CACHE)
    free = shutil.disk_usage(_existing(place)).free / GB
    need = f"{DOWNLOAD_GB} GB to download and {TRANSLATED_GB} GB translated"
    words = f"{', '.join(here) or 'none downloaded'}; {free:.0f} GB free at {place}, each takes {need}"
    return [Finding("published models", words, "fine" if here or free > DOWNLOAD_GB + TRANSLATED_GB else "note")]


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above that exists."""
    return next(each for each in (path, *path.absolute().parents) if each.is_dir())


def _recordings(raw: Path, split: str | None, data: Path | None) -> list[Finding]:
    """Which takes of the release lack videos, and the disk space that preparing them needs."""
    files = sorted((raw / "annotations").glob(f"relations_{split or '*'}.json"))
    if not files:
        return [Finding("recordings", f"no annotations/relations_{split or '*'}.json in {raw}", "fault")]
    takes, frames, without, partly = 0, 0, [], []
    for path in files:
        try:
            annotations = open_annotations(path)
        except XsegError as fault:
            return [Finding("recordings", str(fault), "fault")]
        for uid in annotations.take_uids:
            takes += 1
            cameras = _last_frames(annotations.unread(uid).source)
            frames += len(cameras) * (max(cameras.values(), default=-1) // STRIDE + 1)
            name = annotations.name(uid)
            videos = raw / "takes" / (name if NAME.fullmatch(name) else "") / "frame_aligned_videos"
            missing = [camera for camera in sorted(cameras) if Video.find(videos, camera) is None]
            if not cameras or any(is_ego(camera) for camera in missing):
                without.append(f"take {uid} ({name or 'no name'}) lacks its ego video")
            elif missing:
                partly.append(f"take {uid} ({name}) lacks {', '.join(missing)}")
    findings = [Finding("recordings", f"{takes} takes in {', '.join(path.name for path in files)}")]
    findings += [_listed("recordings", problems, "note") for problems in (without, partly) if problems]
    return [*findings, _space(frames, data)]


def _last_frames(entry: object) -> dict[str, int]:
    """The cameras of a take as the release has it, and the last annotated frame of each."""
    last: dict[str, int] = {}
    objects = entry.get("object_masks") if isinstance(entry, dict) else None
    for cameras in objects.values() if isinstance(objects, dict) else ():
        for camera, seen in cameras.items() if isinstance(cameras, dict) else ():
            if NAME.fullmatch(camera) and isinstance(seen, dict):
                annotated = seen.get("annotated_frames")
                found = [frame for frame in annotated if type(frame) is int] if isinstance(annotated, list) else []
                last[camera] = max([last.get(camera, 0), *found])
    return last


def _space(frames: int, data: Path | None) -> Finding:
    """What the frames of all takes come to, and whether it is there."""
    place = _existing(data or Path())
    sizes = [path.stat().st_size for path in islice(place.glob("*/*/*.jpg"), MEASURED)] if data else []
    each = sum(sizes) / len(sizes) if sizes else FRAME_BYTES
    need, free = frames * each, shutil.disk_usage(place).free
    how = f"measured on {len(sizes)} of them" if sizes else "as in the sample world"
    words = f"{frames:,} frames take about {need / GB:.1f} GB prepared ({each / 1e3:.0f} kB each, {how})"
    return Finding("disk space", f"{words}; {free / GB:.0f} GB free", "fine" if free > need else "note")


def _listed(what: str, problems: list[str], state: str) -> Finding:
    more = f", and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
    return Finding(what, "; ".join(problems[:LISTED]) + more, state)


def _takes(data: Path, split: str | None) -> tuple[list[Finding], bool]:
    """What is wrong with prepared takes, and whether there is anything to predict."""
    free = Finding("disk", f"{shutil.disk_usage(_existing(data)).free / GB:.0f} GB free at {data}")
    if not data.is_dir():
        return [free, Finding("takes", f"no folder {data}", "fault")], False
    try:
        annotations = open_annotations(data, split=split)
    except XsegError as fault:
        return [free, Finding("takes", str(fault), "fault")], False
    frames, lacking = 0, {}
    for take in track(annotations, "Looking at takes", total=len(annotations)):
        wanted = _frames_to_read(take)
        frames += len(wanted)
        missing = sum(not frame_path(data / take.take_uid, camera, frame).is_file() for camera, frame in wanted)
        if missing:
            lacking[take.take_uid] = f"take {take.take_uid} lacks {missing} of {len(wanted)} frames"
    findings = [free, Finding("takes", f"{len(annotations)} prepared, {frames} frames to look at")]
    for problems in ([f"take {uid} is not prepared" for uid in annotations.unprepared], list(lacking.values())):
        if problems:
            findings.append(_listed("incomplete", problems, "fault"))
    if annotations.faults:
        words = f"{len(annotations.faults)} cannot be used; the first: {annotations.faults[0]}"
        findings.append(Finding("masks", words, "note"))
    return findings, not lacking and not annotations.unprepared


def _frames_to_read(take: Take) -> set[tuple[str, int]]:
    """Cameras and frames of all pairs in both directions: a target's masks may be hidden, its frame is looked at."""
    return {
        (camera, frame)
        for direction in Direction
        for pairs in required_keys(take, direction).values()
        for cameras, frames in pairs.items()
        for camera in cameras
        for frame in frames
    }
