"""Whether this machine and this folder are ready, and what to run next."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from egoexo_xseg import __version__
from egoexo_xseg.data.annotations import Take, open_annotations
from egoexo_xseg.data.images import frame_path, import_cv2
from egoexo_xseg.errors import XsegError
from egoexo_xseg.jobs.weights import known_checkpoints
from egoexo_xseg.progress import track

LISTED = 5
"""Takes named of each kind of fault."""

FULL_SIZE = 1.59e9
"""Parameters of the published models, two bytes each in bfloat16, four in float32."""

GB = 1e9


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `state` is "fine", "note" or "fault"; only a fault keeps something from running."""

    what: str
    value: str
    state: str = "fine"


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was looked at, and the command that comes next."""

    findings: list[Finding]
    next: str

    @property
    def well(self) -> bool:
        return all(finding.state != "fault" for finding in self.findings)

    def to_json(self) -> dict[str, object]:
        return {"well": self.well, "next": self.next, "findings": [asdict(finding) for finding in self.findings]}


def diagnose(data: Path | None = None, split: str | None = None) -> Diagnosis:
    """Look at the machine, the packages, the published models and, if given, at prepared takes."""
    findings = [*_machine(), *_packages(), *_models()]
    if data is None:
        return Diagnosis(findings, "xseg demo   or, with the release in RAW: xseg prepare RAW DATA --split val")
    own, ready = _takes(data, split)
    chosen = f" --split {split}" if split else ""
    following = f"xseg predict --direction ego2exo --data {data}{chosen} --out PRED"
    return Diagnosis([*findings, *own], following if ready else f"xseg prepare RAW {data}{chosen}")


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
        need = 2 * FULL_SIZE
        room = f"{free / GB:.0f} of {total / GB:.0f} GB free"
        words = f"{torch.cuda.get_device_name(number)}, {room}; a published model's weights take {need / GB:.1f} GB"
        findings.append(Finding(f"GPU {number}", words, "fine" if free > 1.5 * need else "note"))
    if not torch.cuda.is_available():
        need = 4 * FULL_SIZE / GB
        words = f"none: everything runs on the processors; a published model's weights take {need:.1f} GB of memory"
        findings.append(Finding("GPU", words, "note"))
    return findings


def _packages() -> list[Finding]:
    """Versions of what xseg needs, as its own metadata names them."""
    versions, missing = [], []
    for wanted in importlib.metadata.requires("egoexo-xseg") or ():
        name = re.match(r"[\w.-]+", wanted)
        if name is None or "extra ==" in wanted:
            continue
        try:
            versions.append(f"{name[0]} {importlib.metadata.version(name[0])}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name[0])
    findings = [Finding("packages", ", ".join(versions))]
    if missing:
        findings.append(Finding("missing packages", f"{', '.join(missing)}: pip install {' '.join(missing)}", "fault"))
    try:
        import_cv2()
    except XsegError as fault:
        findings.append(Finding("OpenCV", str(fault), "fault"))
    return findings


def _models() -> list[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE

    here = [each.name for each in known_checkpoints() if each.folder]
    place = Path(HF_HUB_CACHE)
    free = shutil.disk_usage(_existing(place)).free / GB
    need = 4 * FULL_SIZE / GB
    words = f"{', '.join(here) or 'none downloaded'}; {free:.0f} GB free at {place}, each takes {need:.1f} GB"
    return [Finding("published models", words, "fine" if here or free > need else "note")]


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above that exists."""
    return next(each for each in (path, *path.absolute().parents) if each.is_dir())


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
        wanted = _query_frames(take)
        frames += len(wanted)
        missing = sum(not frame_path(data / take.take_uid, camera, frame).is_file() for camera, frame in wanted)
        if missing:
            lacking[take.take_uid] = f"take {take.take_uid} lacks {missing} of {len(wanted)} frames"
    findings = [free, Finding("takes", f"{len(annotations)} prepared, {frames} frames with objects")]
    for problems in ([f"take {uid} is not prepared" for uid in annotations.unprepared], list(lacking.values())):
        if problems:
            more = f", and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
            findings.append(Finding("incomplete", "; ".join(problems[:LISTED]) + more, "fault"))
    if annotations.faults:
        words = f"{len(annotations.faults)} cannot be used; the first: {annotations.faults[0]}"
        findings.append(Finding("masks", words, "note"))
    return findings, not lacking and not annotations.unprepared


def _query_frames(take: Take) -> set[tuple[str, int]]:
    """Cameras and frames that hold a mask of any object."""
    return {(camera, frame) for cameras in take.masks.values() for camera, masks in cameras.items() for frame in masks}
