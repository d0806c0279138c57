"""From ObjectRelator's lists of records to prepared takes, and back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from egoexo_xseg.data.annotations import Annotations, Masks, Take, open_annotations
from egoexo_xseg.data.captions import Caption, Captions, iter_captions, sort_key
from egoexo_xseg.data.images import frame_path, image_hw
from egoexo_xseg.data.phrases import FALLBACK
from egoexo_xseg.data.relator import Record, natural_order, read_records, record_to_json
from egoexo_xseg.data.sources import NAME, read_json
from egoexo_xseg.errors import AnnotationError
from egoexo_xseg.files import written_whole
from egoexo_xseg.jobs.prepare import merge_split, take_to_json, write_json
from egoexo_xseg.masks import Rle, mask_to_rle, resize_nearest, rle_area, rle_to_mask
from egoexo_xseg.progress import track
from egoexo_xseg.records import Direction, is_ego

# From records


@dataclass
class RecordsSummary:
    """What a run did; `notes` name the records that were left out, and captions that contradict an earlier one."""

    prepared: int = 0
    already: int = 0
    records: int = 0
    pictures: int = 0
    captions: int = 0
    notes: list[str] = field(default_factory=list)

    def rows(self) -> list[tuple[str, object]]:
        return [
            ("takes prepared", self.prepared),
            ("takes that were already there", self.already),
            ("records", self.records),
            ("pictures written", self.pictures),
            ("captions", self.captions),
            ("records and captions left out", len(self.notes)),
        ]


@dataclass
class _Plan:
    """A take as its records show it, with the pictures of each camera and frame, and captions."""

    take_uid: str
    masks: Masks = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    pictures: dict[tuple[str, int], Path] = field(default_factory=dict)
    captions: dict[tuple[str, str, str, int], str] = field(default_factory=dict)

    def add(self, object_id: str, camera: str, rle: Rle | None, record: Record) -> None:
        """Note that a record lists a camera under an object, and its mask if there is one."""
        frames = self.masks.setdefault(object_id, {}).setdefault(camera, {})
        if rle is None:
            return
        hw = self.sizes.setdefault(camera, rle.hw)
        if rle.hw != hw:
            problem = f"a mask of {rle.hw[0]}x{rle.hw[1]} in {camera}, where others have {hw[0]}x{hw[1]}"
            raise AnnotationError(problem, where=record.where)
        if frames.setdefault(record.frame, rle) != rle:
            raise AnnotationError(f"another mask of {object_id!r} in {camera}", where=record.where)

    def to_take(self) -> Take:
        """Frames with a mask are annotated, all others unknown."""
        masks = {object_id: self.masks[object_id] for object_id in natural_order(self.masks)}
        looked = {
            object_id: {camera: tuple(sorted(frames)) for camera, frames in cameras.items()}
            for object_id, cameras in masks.items()
        }
        sampled = sorted({frame for _, frame in self.pictures})
        return Take(self.take_uid, self.take_uid, "", masks, looked, tuple(sampled), self.sizes)


def prepare_records(
    lists: Sequence[Path], data: Path, split: str, *, images: Path | None = None, takes: Sequence[str] = ()
) -> RecordsSummary:
    """Make the takes of `split` from lists of records, whose pictures lie below `images` (default: beside each list).

    What the records do not show is unknown there: hidden objects, other cameras, other frames. Captions become
    `captions-<split>.jsonl`. Finished takes are skipped. Pictures are linked, or copied where that is impossible; a
    record that lacks one is left out and noted. Whatever else is wrong is an AnnotationError before anything is
    written.
    """
    if not NAME.fullmatch(split):
        raise AnnotationError(f"not a split's name: {split!r}", where=data)
    found: dict[str, list[Record]] = {}
    for path in lists:
        folder = images or path.parent
        if folder.resolve() == data.resolve():
            raise AnnotationError("the records' pictures lie here", where=data, remedy="Choose another folder as DATA")
        for record in read_records(path, folder):
            found.setdefault(record.take_uid, []).append(record)
    unknown = set(takes) - set(found)
    if unknown:
        raise AnnotationError(f"no take {min(unknown)!r} here", where=", ".join(map(str, lists)))
    summary = RecordsSummary()
    plans = [_plan(uid, own, summary) for uid, own in found.items() if not takes or uid in takes]
    if not any(plan.pictures for plan in plans):
        raise AnnotationError("none of the records has its pictures", where=images or lists[0], remedy="Give --images")
    done = {plan.take_uid for plan in plans if (data / plan.take_uid / "annotation.json").is_file()}
    for plan in plans:
        if plan.take_uid not in done and (data / plan.take_uid).exists():
            where = data / plan.take_uid
            raise AnnotationError("something else is in the way", where=where, remedy="Choose another folder as DATA")
    summary.already = len(done)
    if done:
        there = open_annotations(data)
        summary.notes += [note for plan in plans if plan.take_uid in done for note in _iter_lacking(plan, there)]
    for plan in track(plans, "Preparing takes", total=len(plans)):
        folder = data / plan.take_uid
        if plan.pictures and plan.take_uid not in done:
            _write_take(plan, folder)
            summary.prepared += 1
            summary.pictures += len(plan.pictures)
    merge_split(data, split, [plan.take_uid for plan in plans])
    summary.captions = _write_captions(plans, data / f"captions-{split}.jsonl")
    return summary


def _plan(uid: str, records: Sequence[Record], summary: RecordsSummary) -> _Plan:
    """A take as those of its records show it that have both pictures."""
    names = _ObjectIds(records[0].images[0].parents[1] / "annotation.json")
    plan = _Plan(uid)
    for record in records:
        ids = names.of(record)
        lost = next((path for path in record.images if not path.is_file()), None)
        if lost:
            summary.notes.append(f"{record.where}: no picture {lost}")
            continue
        summary.records += 1
        for camera, image in zip(record.cameras, record.images, strict=True):
            plan.pictures.setdefault((camera, record.frame), image)
        for number, object_id in ids.items():
            for camera, own in zip(record.cameras, (record.query_masks, record.target_masks), strict=True):
                plan.add(object_id, camera, own.get(number), record)
        for number, text in record.captions.items():
            key = (uid, ids[number], record.cameras[0], record.frame)
            if plan.captions.setdefault(key, text) != text:
                summary.notes.append(f"{record.where}: another caption of {ids[number]!r}; the first one stands")
    return plan


def _iter_lacking(plan: _Plan, annotations: Annotations) -> Iterator[str]:
    """What a take that is there already does not hold of its records."""
    there = annotations.load(plan.take_uid).masks
    lacking = sum(
        frame not in there.get(object_id, {}).get(camera, {})
        for object_id, cameras in plan.masks.items()
        for camera, frames in cameras.items()
        for frame in frames
    )
    if lacking:
        yield f"take {plan.take_uid}: it is there already, without {lacking} of these masks; give all lists together"


class _ObjectIds:
    """Names of a take's numbered objects, from the annotation beside its pictures where there is one."""

    def __init__(self, path: Path) -> None:
        self.path, self.masks, self.ids = path, None, []
        if path.is_file():
            masks = read_json(path).get("masks")
            self.masks = masks if isinstance(masks, dict) else {}
            self.ids = natural_order(self.masks)

    def of(self, record: Record) -> dict[int, str]:
        """The objects of a record by number; a list that was made with another annotation is an error."""
        numbers = sorted({*record.query_masks, *record.target_masks})
        if self.masks is None:
            return {number: f"object {number}" for number in numbers}
        for camera, own in zip(record.cameras, (record.query_masks, record.target_masks), strict=True):
            for number in own:
                if number > len(self.ids):
                    problem = f"object {number}, and {self.path} has {len(self.ids)} of them"
                    raise AnnotationError(problem, where=record.where)
                cameras = self.masks[self.ids[number - 1]]
                frames = cameras.get(camera) if isinstance(cameras, dict) else None
                if not isinstance(frames, dict) or str(record.frame) not in frames:
                    problem = f"object {number} would be {self.ids[number - 1]!r}, which {self.path} does not see there"
                    raise AnnotationError(problem, where=record.where)
        return {number: self.ids[number - 1] for number in numbers}


def _write_take(plan: _Plan, folder: Path) -> None:
    """Write one take under a temporary name, then give it its own."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for (camera, frame), source in plan.pictures.items():
            path = frame_path(partial, camera, frame)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, path)
            except OSError:  # another disk, or another's file
                shutil.copyfile(source, path)
        take = plan.to_take()
        write_json(partial / "annotation.json", take_to_json(take, take.sampled_frames))
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_captions(plans: Sequence[_Plan], path: Path) -> int:
    """Write the takes' captions among those that are there, of other takes and of other query cameras; returns how many
    the records have.
    """
    own = {key: Caption(*key, text) for plan in plans for key, text in plan.captions.items()}
    if own:
        views = {(key[0], key[2]) for key in own}
        known = {found.key: found for _, found in iter_captions(path)} if path.is_file() else {}
        captions = {key: found for key, found in known.items() if (key[0], key[2]) not in views} | own
        with written_whole(path) as file:
            file.writelines(f"{captions[key].to_line()}\n" for key in sorted(captions, key=sort_key))
    return len(own)


# To records


@dataclass
class ExportSummary:
    """What a list came to; `without` are takes that no record is of."""

    records: int = 0
    objects: int = 0
    takes: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)


def export_records(
    annotations: Annotations, out: Path, direction: Direction, split: str, captions: Captions | None = None
) -> ExportSummary:
    """Write prepared takes as a list of records, and its takes as `<out>.split.json`; the same call, the same bytes.

    The records are those that ObjectRelator would make of the same takes: of one exo camera, at the frames of the
    object that is longest in the query view, the objects that both views show. Masks have the size of their pictures.
    An object without a caption is an "object" where `captions` are given.
    """
    summary, sentences = ExportSummary(), 0
    with written_whole(out) as file:
        for take in track(annotations, "Exporting takes", total=len(annotations)):
            before = summary.records
            for record in iter_records(take, direction, captions):
                row = record_to_json(record, summary.records, sentences)
                file.write(f"{', ' if summary.records else '['}{json.dumps(row)}")
                summary.records += 1
                summary.objects += len(record.query_masks)
                sentences += len(record.captions)
            (summary.takes if summary.records > before else summary.without).append(take.take_uid)
        file.write("]\n")
        if not summary.records:
            raise AnnotationError("no object that both views show", where=annotations.source)
    write_json(out.with_suffix(".split.json"), {split: summary.takes})
    return summary


def iter_records(take: Take, direction: Direction, captions: Captions | None = None) -> Iterator[Record]:
    """The records of one prepared take."""
    if take.folder is None:
        raise AnnotationError("annotations without frames", where=f"take {take.take_uid}", remedy="xseg prepare")
    object_ids = natural_order(take.masks)
    numbers = {object_id: number for number, object_id in enumerate(object_ids, 1)}
    egos, exos = (
        [camera for camera in natural_order(take.cameras) if is_ego(camera) is side and (take.folder / camera).is_dir()]
        for side in (True, False)
    )
    if not egos or not exos:
        return
    shared = {exo: [each for each in object_ids if {egos[0], exo} <= set(take.masks[each])] for exo in exos}
    exo = max(exos, key=lambda camera: len(shared[camera]))  # the first of those that share most
    if not shared[exo]:
        return
    cameras = (egos[0], exo) if direction.query_is_ego else (exo, egos[0])
    longest = max((take.masks[each][cameras[0]] for each in shared[exo]), key=len)
    pictures = {frame: [frame_path(take.folder, camera, frame) for camera in cameras] for frame in sorted(longest)}
    pictures = {frame: paths for frame, paths in pictures.items() if all(path.is_file() for path in paths)}
    sizes = [image_hw(path) for path in next(iter(pictures.values()), ())]  # those of a camera are all alike
    for frame in pictures:
        masks: list[dict[int, Rle]] = [{}, {}]
        for object_id in shared[exo]:
            own = [
                _shrink(take.masks[object_id][camera].get(frame), hw) for camera, hw in zip(cameras, sizes, strict=True)
            ]
            if all(own):
                for side, rle in zip(masks, own, strict=True):
                    side[numbers[object_id]] = rle
        if masks[0]:
            texts = {}
            if captions is not None:
                said = (captions.of(take.take_uid, object_ids[number - 1], cameras[0], frame) for number in masks[0])
                texts = {number: text or FALLBACK for number, text in zip(masks[0], said, strict=True)}
            yield Record(take.take_uid, cameras, frame, *masks, texts)


def _shrink(rle: Rle | None, hw: tuple[int, int]) -> Rle | None:
    """A mask at its picture's size; None where nothing is left of it."""
    if rle is None or not rle_area(rle):
        return None
    small = rle if rle.hw == hw else mask_to_rle(resize_nearest(rle_to_mask(rle), hw))
    return small if rle_area(small) else None
