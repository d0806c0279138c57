"""Typed, validated reading of annotations: the raw release, the official ground truth, processed takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from egoexo_xseg.data.lzstring import decompress
from egoexo_xseg.data.sources import NAME, TakesFile, TakesFolder, read_json, text
from egoexo_xseg.errors import AnnotationError, MaskError
from egoexo_xseg.masks import Rle, parse_together, rle_to_runs, scored_hw
from egoexo_xseg.records import is_ego

MAX_FRAME = 10**7
"""Four days at 30 frames a second."""

HELD = 1 << 22
"""Characters of run lengths that wait to be parsed together: a few hundred usual masks."""

MOST = 1 << 27
"""The same of a whole take, a gigabyte once parsed: long takes have tens of millions, more is an attack."""

USUAL_HW = {True: (1408, 1408), False: (2160, 3840)}
"""Of ego and exo cameras, for want of any better knowledge."""

Masks = dict[str, dict[str, dict[int, Rle]]]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was skipped: what, and where."""

    problem: str
    take_uid: str
    object_id: str | None = None
    camera: str | None = None
    frame: str | None = None

    def __str__(self) -> str:
        places = (("take", self.take_uid), ("object", self.object_id), ("camera", self.camera), ("frame", self.frame))
        return f"{', '.join(f'{name} {value!r}' for name, value in places if value is not None)}: {self.problem}"


@dataclass(frozen=True)
class Take:
    """One recording's objects: `masks[object_id][camera][frame]`, and the frames that an annotator looked at.

    An annotated frame without a mask says that the object is not visible; a frame that is not annotated says nothing.
    `lost_frames` have a mask that could not be used: nothing can be asked about them, and the server still wants an
    answer. `camera_hw` is each camera's original (height, width), that of `guessed` ones for want of any mask or word;
    `folder` holds `<camera>/<frame>.jpg` of a prepared take.
    """

    take_uid: str
    take_name: str
    scenario: str
    masks: Masks
    annotated_frames: dict[str, dict[str, tuple[int, ...]]]
    sampled_frames: tuple[int, ...]
    camera_hw: dict[str, tuple[int, int]]
    folder: Path | None = None
    lost_frames: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)
    guessed: frozenset[str] = frozenset()

    @property
    def cameras(self) -> tuple[str, ...]:
        """Every camera that an object lists or whose size is known, sorted."""
        listed = {camera for cameras in self.masks.values() for camera in cameras}
        return tuple(sorted(listed | set(self.camera_hw)))


@dataclass(frozen=True, slots=True)
class UnreadTake:
    """A take as it stands in a file: cheap to hand to another process, which reads it there."""

    take_uid: str
    source: Any  # a JSON value, or the folder of a processed take

    def read(self) -> tuple[Take, list[Fault]]:
        """The take, and what had to be skipped in it."""
        faults: list[Fault] = []
        if isinstance(self.source, Path):
            return _read_take(self.take_uid, read_json(self.source / "annotation.json"), faults, self.source), faults
        entry = self.source
        if not isinstance(entry, dict):
            faults.append(Fault("a take must be a JSON object", self.take_uid))
            entry = {}
        read = _read_relations if "object_masks" in entry else _read_take
        return read(self.take_uid, entry, faults), faults


class Annotations:
    """Takes that are read one by one; whatever had to be skipped is collected in `faults`.

    `unprepared` takes belong to the split too, but `xseg prepare` did not, or could not, make them.
    """

    def __init__(self, source: Path, takes: TakesFile | TakesFolder, take_uids: tuple[str, ...]) -> None:
        self.source, self._takes, self.take_uids = source, takes, take_uids
        self.unprepared = takes.unprepared
        self._faults: dict[Fault, None] = {}

    def unread(self, take_uid: str) -> UnreadTake:
        if take_uid not in self.take_uids:
            raise AnnotationError(f"no take {take_uid!r} here", where=self.source)
        return UnreadTake(take_uid, self._takes.source(take_uid))

    def load(self, take_uid: str) -> Take:
        take, faults = self.unread(take_uid).read()
        self.note(faults)
        return take

    def note(self, faults: Sequence[Fault]) -> None:
        """Remember what had to be skipped, once, however often the take is read."""
        self._faults |= dict.fromkeys(faults)

    @property
    def faults(self) -> list[Fault]:
        return list(self._faults)

    def name(self, take_uid: str) -> str:
        """The take's name, or nothing, without reading its masks."""
        return self._takes.name(take_uid)

    def __iter__(self) -> Iterator[Take]:
        return map(self.load, self.take_uids)

    def __len__(self) -> int:
        return len(self.take_uids)


def open_annotations(path: Path, *, split: str | None = None, takes: Sequence[str] = ()) -> Annotations:
    """Annotations of a processed folder, a relations JSON of the raw release, or the official ground truth.

    `split` chooses from a folder's split.json, and a file must not name another one; `takes` keeps these uids or names.
    """
    source = TakesFolder(path, split) if path.is_dir() else TakesFile(path, split)
    uids = source.take_uids
    if takes:
        uids = tuple(uid for uid in uids if uid in takes or source.name(uid) in takes)
        unknown = set(takes) - set(uids) - {source.name(uid) for uid in uids}
        if unknown:
            raise AnnotationError(
                f"no take {min(unknown)!r} here", where=path, remedy=f"It has {len(source.take_uids)}"
            )
    return Annotations(path, source, uids)


def _read_relations(uid: str, entry: Mapping[str, Any], faults: list[Fault]) -> Take:
    """A take of the raw release: packed masks, and frames and sizes beside them."""
    masks: dict[str, Any] = {}
    annotated: dict[str, Any] = {}
    for object_id, cameras in _items(entry.get("object_masks"), uid, faults):
        masks[object_id], annotated[object_id] = {}, {}
        for camera, track in _items(cameras, uid, faults, object_id):
            track = track if isinstance(track, dict) else {}
            masks[object_id][camera] = track.get("annotation") or {}
            annotated[object_id][camera] = track.get("annotated_frames") or []
    return _read_take(uid, {**entry, "masks": masks, "annotated_frames": annotated}, faults)


def _read_take(uid: str, entry: Mapping[str, Any], faults: list[Fault], folder: Path | None = None) -> Take:
    """A take in the processed form; `masks` may be packed ones of the raw release as well."""
    masks: Masks = {}
    lost: dict[str, dict[str, set[int]]] = {}
    allowance = _Allowance()
    for object_id, cameras in _items(entry.get("masks"), uid, faults):
        masks[object_id], lost[object_id] = {}, {}
        for camera, track in _items(cameras, uid, faults, object_id):
            if not NAME.fullmatch(camera):
                faults.append(Fault("not a camera's name", uid, object_id, camera))
                continue
            place = (uid, object_id, camera)
            masks[object_id][camera], lost[object_id][camera] = _read_track(track, place, faults, allowance)
    known, guessed = _camera_sizes(uid, masks, lost, entry.get("camera_size"), faults)
    looked = entry.get("annotated_frames")
    annotated = {
        object_id: {
            # A frame whose mask was lost is unknown: taken as annotated, it would claim that the object is absent.
            camera: tuple(sorted(_frames(_child(_child(looked, object_id), camera)) - own))
            for camera, own in cameras.items()
        }
        for object_id, cameras in lost.items()
    }
    frames = _frames(entry.get("subsample_idx"))
    frames = frames or {frame for cameras in annotated.values() for track in cameras.values() for frame in track}
    return Take(
        take_uid=uid,
        take_name=text(entry.get("take_name")),
        scenario=text(entry.get("scenario")),
        masks=masks,
        annotated_frames=annotated,
        sampled_frames=tuple(sorted(frames)),
        camera_hw=known | guessed,
        folder=folder,
        lost_frames={o: {c: tuple(sorted(own)) for c, own in cameras.items()} for o, cameras in lost.items()},
        guessed=frozenset(guessed),
    )


class _Allowance:
    """What a take may still unpack: a few kilobytes can hold many millions of characters."""

    def __init__(self) -> None:
        self.left = MOST

    def spend(self, count: int) -> None:
        if count > self.left:
            self.left = 0  # one fault after the other from here on, and nothing more is unpacked
            raise MaskError(f"the masks of its take have more than {MOST} characters")
        self.left -= count


def _read_track(
    track: object, place: tuple[str, str, str], faults: list[Fault], allowance: _Allowance
) -> tuple[dict[int, Rle], set[int]]:
    """The masks of one object in one camera, and the frames whose mask had to be skipped."""
    read: dict[int, Rle] = {}
    held: dict[int, Rle] = {}
    wrong: dict[int, str] = {}
    waiting = 0
    uid, object_id, camera = place
    for key, coded in _items(track, uid, faults, object_id, camera):
        frame = int(key) if key.isdecimal() and key.isascii() and len(key) < 9 else -1
        if str(frame) != key or frame > MAX_FRAME:
            faults.append(Fault("not a frame index", uid, object_id, camera, key))
            continue
        try:
            held[frame] = rle = _decode(coded, allowance)
        except MaskError as fault:
            wrong[frame] = str(fault)
            continue
        waiting += len(rle.counts)
        if waiting >= HELD:
            read |= _settle(held, wrong)
            held, waiting = {}, 0
    read |= _settle(held, wrong)
    faults += [Fault(problem, uid, object_id, camera, str(frame)) for frame, problem in wrong.items()]
    return read, set(wrong)


def _settle(held: Mapping[int, Rle], wrong: dict[int, str]) -> dict[int, Rle]:
    """The masks whose run lengths are right; the others' frames are `wrong`."""
    parse_together(list(held.values()))
    for frame, rle in held.items():
        try:
            rle_to_runs(rle)
        except MaskError as fault:
            wrong[frame] = str(fault)
    return {frame: rle for frame, rle in held.items() if frame not in wrong}


def _decode(coded: object, allowance: _Allowance) -> Rle:
    """A mask in either form; its run lengths are not checked yet."""
    allowance.spend(1)
    if isinstance(coded, dict) and "encodedMask" in coded:
        packed = coded["encodedMask"]
        if not isinstance(packed, str):
            raise MaskError("a packed mask must be text")
        coded = {"size": [coded.get("height"), coded.get("width")], "counts": decompress(packed)}
    rle = Rle.from_json(coded)
    allowance.spend(len(rle.counts))
    scored_hw(rle.hw)
    return rle


def _camera_sizes(
    uid: str, masks: Masks, lost: dict[str, dict[str, set[int]]], given: object, faults: list[Fault]
) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]]:
    """Each camera's size as most of its masks have it, or as given, and what is likely for the others.

    Masks of another size are taken out.
    """
    votes: dict[str, Counter[tuple[int, int]]] = {}
    for cameras in masks.values():
        for camera, track in cameras.items():
            votes.setdefault(camera, Counter()).update(rle.hw for rle in track.values())
    sizes = {camera: max(counts, key=lambda hw: (counts[hw], hw)) for camera, counts in votes.items() if counts}
    for object_id, cameras in masks.items():
        for camera, track in cameras.items():
            for frame in [frame for frame, rle in track.items() if rle.hw != sizes[camera]]:
                height, width = track.pop(frame).hw
                problem = f"a mask of {height}x{width} in a camera of {sizes[camera][0]}x{sizes[camera][1]}"
                faults.append(Fault(problem, uid, object_id, camera, str(frame)))
                lost[object_id][camera].add(frame)
    for camera, hw in _items(given if given is not None else {}, uid, faults):
        if NAME.fullmatch(camera) and camera not in sizes and isinstance(hw, list):
            try:
                size = Rle.from_json({"size": hw, "counts": ""}).hw
                scored_hw(size)
                sizes[camera] = size
            except MaskError as fault:
                faults.append(Fault(str(fault), uid, camera=camera))
    listed = {camera for cameras in masks.values() for camera in cameras}
    return sizes, {camera: likely_size(camera, sizes) for camera in sorted(listed - set(sizes))}


def likely_size(camera: str, sizes: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """For a camera that no object was ever seen in: its answers are demanded, but their size is not checked."""
    alike = Counter(hw for other, hw in sizes.items() if is_ego(other) == is_ego(camera))
    return max(alike, key=lambda hw: (alike[hw], hw)) if alike else USUAL_HW[is_ego(camera)]


def _items(
    value: object, uid: str, faults: list[Fault], object_id: str | None = None, camera: str | None = None
) -> list[tuple[str, Any]]:
    """The entries of a JSON object; whatever else is found there is a fault and has none."""
    if isinstance(value, dict):
        return list(value.items())
    faults.append(Fault("masks must be a JSON object", uid, object_id, camera))
    return []


def _child(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, dict) else None


def _frames(value: object) -> set[int]:
    frames = value if isinstance(value, list) else []
    return {frame for frame in frames if type(frame) is int and 0 <= frame <= MAX_FRAME}
