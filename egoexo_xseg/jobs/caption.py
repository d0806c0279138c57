"""A captioner over the query objects of a split: one line each, in one file that grows and never forgets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from egoexo_xseg.data.annotations import Annotations, Take, open_annotations
from egoexo_xseg.data.captions import Caption, Key, iter_captions, sort_key
from egoexo_xseg.data.images import frame_path, read_image
from egoexo_xseg.data.pairs import required_keys
from egoexo_xseg.data.phrases import FALLBACK, parse_phrase
from egoexo_xseg.data.shards import shard_takes
from egoexo_xseg.errors import AnnotationError, XsegError, is_out_of_memory
from egoexo_xseg.files import written_whole
from egoexo_xseg.jobs.manifest import check_manifest, versions, write_manifest
from egoexo_xseg.jobs.predict import DTYPES
from egoexo_xseg.masks import Rle, resize_nearest, rle_area, rle_to_mask
from egoexo_xseg.model.captioner import ASKED, Captioner, show_object
from egoexo_xseg.progress import track
from egoexo_xseg.records import Direction

HASH_LENGTH = 16
"""Hexadecimal digits that tell masks, and prompts, apart."""

MAX_ANSWER = 4000
"""Characters of an answer that are kept."""


@dataclass(frozen=True)
class CaptionOptions:
    """What to describe, with which captioner, and where to."""

    data: Path
    out: Path
    model: str = "llava-hf/llava-1.5-7b-hf"
    direction: str = "both"  # whose query views: ego2exo, exo2ego or both
    per: str = "object"  # once per object and camera, or at every "frame"
    split: str | None = None
    takes: tuple[str, ...] = ()
    device: str | None = None  # a GPU if there is one
    dtype: str | None = None  # bfloat16 on a GPU, float32 elsewhere
    batch_size: int = 8
    shard: tuple[int, int] = (1, 1)


@dataclass
class CaptionSummary:
    """What a run did; `faults` names what has no caption, which the same command tries again.

    `notes` names masks of the annotations that had to be skipped: there is nothing to describe.
    """

    path: Path
    written: int = 0
    already: int = 0
    unnamed: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Question:
    """An object to be described, by the mask and the frame that show it. Its name is for the file only."""

    key: Key
    folder: Path
    source_frame: int
    mask: Rle

    def __str__(self) -> str:
        take_uid, object_id, camera, _ = self.key
        return f"take {take_uid}, object {object_id!r}, {camera}, frame {self.source_frame}"

    @property
    def mask_hash(self) -> str:
        return _mask_hash(self.mask)

    def show(self) -> UInt8[np.ndarray, "h w 3"]:
        """What the captioner sees: pixels, and nothing else."""
        image = read_image(frame_path(self.folder, self.key[2], self.source_frame))
        return show_object(image, _fit(rle_to_mask(self.mask), image.shape[:2]))


def caption(options: CaptionOptions) -> CaptionSummary:
    """Describe every query object of a split from its pixels, into one file of JSON lines (docs/formats.md).

    Lines that are there already stay, unless they speak of an object that is asked for and the mask, the model or the
    prompt has changed since. Finished batches go to a side file at once, so that a killed run continues after the
    last of them, and ends with the same bytes. What cannot be shown to the captioner is named and left out.
    """
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = options.dtype or ("bfloat16" if device.startswith("cuda") else "float32")
    path = shard_path(options.out, options.shard)
    options = replace(options, device=device, dtype=dtype, out=path)
    annotations = open_annotations(options.data, split=options.split, takes=options.takes)
    book = Book(path)
    beside = path.with_suffix(".manifest.json")
    if book.captions:
        check_manifest(beside, {"dtype": dtype}, where=path, holds="this file holds captions")
    found = Captioner.find(options.model)
    _, revision = found
    write_manifest(beside, _manifest(options, revision))
    writer = Writer(options, revision, annotations, book)
    total = writer.forget_stale()
    if total:
        captioner = Captioner.load(options.model, device=device, dtype=DTYPES[dtype], found=found)
        for _ in track(writer.iter_new(captioner), "Captioning", total=total):
            pass
    book.finish()
    writer.summary.notes += map(str, annotations.faults)
    return writer.summary


def shard_path(out: Path, shard: tuple[int, int]) -> Path:
    """The file of one shard: captions-2-of-8.jsonl beside the others."""
    index, count = shard
    return out if count == 1 else out.with_stem(f"{out.stem}-{index}-of-{count}")


def iter_questions(take: Take, options: CaptionOptions, notes: list[str]) -> Iterator[Question]:
    """A take's query objects: at every frame, or (with a key for all frames) at the one where the mask is largest."""
    if take.folder is None:
        raise AnnotationError("annotations without frames", where=f"take {take.take_uid}", remedy="xseg prepare")
    for direction in Direction:
        if options.direction not in (direction.value, "both"):
            continue
        for object_id, pairs in required_keys(take, direction).items():
            for camera, frames in {query: frames for (query, _), frames in pairs.items()}.items():
                masks = take.masks[object_id][camera]  # without those that cannot be used
                areas = {frame: rle_area(masks[frame]) for frame in frames if frame in masks}
                chosen = [frame for frame, area in areas.items() if area]
                empty = len(areas) - len(chosen)
                if empty:
                    notes.append(f"take {take.take_uid}, object {object_id!r}, {camera}: {empty} empty masks")
                if options.per == "object":
                    chosen = sorted(chosen, key=lambda frame: (-areas[frame], frame))[:1]
                for frame in chosen:
                    key = (take.take_uid, object_id, camera, None if options.per == "object" else frame)
                    yield Question(key, take.folder, frame, masks[frame])


class Book:
    """Captions of one file by key, those of a run that was stopped included."""

    def __init__(self, path: Path) -> None:
        self.path, self.side = path, path.with_name(f".{path.name}.new")
        self.captions: dict[Key, Caption] = {}
        if path.exists():
            for where, found in iter_captions(path):
                if not (found.mask_hash and found.model_revision and found.prompt_hash):
                    raise AnnotationError("not a caption that xseg made", where=where, remedy="Choose another --out")
                self.captions[found.key] = found
        if self.side.exists():
            for line in self.side.read_text("utf-8", errors="replace").split("\n"):
                try:
                    found = Caption.from_line(line)
                except AnnotationError:
                    continue  # where the run was killed
                self.captions[found.key] = found

    def add(self, captions: Sequence[Caption]) -> None:
        """Remember captions, also on disk; they begin a line, so that half a line before them does no harm."""
        self.captions |= {each.key: each for each in captions}
        self.side.parent.mkdir(parents=True, exist_ok=True)
        with self.side.open("a", encoding="utf-8") as file:
            file.write("".join(f"\n{each.to_line()}" for each in captions))

    def finish(self) -> None:
        """Write all of them, in the order of their keys."""
        with written_whole(self.path) as file:
            for key in sorted(self.captions, key=sort_key):
                file.write(self.captions[key].to_line() + "\n")
        self.side.unlink(missing_ok=True)


class Writer:
    """Asks a captioner of this revision what the book does not know yet."""

    def __init__(self, options: CaptionOptions, revision: str, annotations: Annotations, book: Book) -> None:
        self.options, self.annotations, self.book = options, annotations, book
        self.summary = CaptionSummary(options.out)
        self.take_uids = shard_takes(annotations, *options.shard)
        self.origin = {"model_revision": revision, "prompt_hash": _hash(ASKED)}

    def forget_stale(self) -> int:
        """Take out what is said of the objects asked for and no longer holds; returns how many questions are open."""
        keys: dict[str, list[Key]] = {}
        for key in self.book.captions:
            keys.setdefault(key[0], []).append(key)
        total = 0
        for uid in self.take_uids:
            take = self.annotations.load(uid)
            questions = list(iter_questions(take, self.options, self.summary.notes))
            asked = {question.key[:3] for question in questions}
            for key in keys.get(uid, ()):
                # Also lines of the other --per: they would go before the new ones, or stand in for them.
                if key[:3] in asked and not self._holds(self.book.captions[key], take):
                    del self.book.captions[key]
            for question in questions:
                known = self.book.captions.get(question.key)
                if known and known.mask_hash == question.mask_hash:
                    self.summary.already += 1
                else:
                    self.book.captions.pop(question.key, None)
                    total += 1
        return total

    def _holds(self, known: Caption, take: Take) -> bool:
        mask = take.masks[known.object_id][known.camera].get(known.source_frame)
        return (
            mask is not None
            and known.mask_hash == _mask_hash(mask)
            and all(getattr(known, name) == value for name, value in self.origin.items())
        )

    def iter_new(self, captioner: Captioner) -> Iterator[Caption]:
        """Captions, written down before they are handed out; batches never span takes, as in `predict`."""
        for uid in self.take_uids:
            questions = iter_questions(self.annotations.load(uid), self.options, [])
            batch: list[tuple[Question, UInt8[np.ndarray, "_ _ 3"]]] = []
            for question in questions:
                if question.key in self.book.captions:
                    continue
                try:
                    batch.append((question, question.show()))
                except XsegError as fault:
                    self.summary.faults.append(f"{question}: {fault}")
                if len(batch) == self.options.batch_size:
                    yield from self._describe(captioner, batch)
                    batch = []
            if batch:
                yield from self._describe(captioner, batch)

    def _describe(
        self, captioner: Captioner, batch: Sequence[tuple[Question, UInt8[np.ndarray, "_ _ 3"]]]
    ) -> list[Caption]:
        """Captions of a batch; what does not fit into memory is tried again one by one."""
        try:
            answers = captioner.describe([image for _, image in batch])
        except (RuntimeError, MemoryError) as fault:
            if not is_out_of_memory(fault):
                raise
            if len(batch) > 1:
                return [each for single in batch for each in self._describe(captioner, [single])]
            self.summary.faults.append(f"{batch[0][0]}: out of memory on {self.options.device}")
            return []
        captions = [self._caption(question, answer) for (question, _), answer in zip(batch, answers, strict=True)]
        self.book.add(captions)
        self.summary.written += len(captions)
        self.summary.unnamed += sum(each.caption == FALLBACK for each in captions)
        return captions

    def _caption(self, question: Question, answer: str) -> Caption:
        return Caption(
            *question.key,
            caption=parse_phrase(answer),
            answer=answer[:MAX_ANSWER],
            source_frame=question.source_frame,
            mask_hash=question.mask_hash,
            **self.origin,
        )


def _fit(mask: Bool[np.ndarray, "H W"], hw: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """A mask at the size of the prepared frame; what is too small for the nearest pixels keeps all that it touches."""
    fitted = resize_nearest(mask, hw)
    if not fitted.any():
        rows, columns = np.nonzero(mask)
        fitted[rows * hw[0] // mask.shape[0], columns * hw[1] // mask.shape[1]] = True
    return fitted


def _mask_hash(mask: Rle) -> str:
    return _hash(f"{mask.hw[0]}x{mask.hw[1]} {mask.counts}")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def _manifest(options: CaptionOptions, revision: str) -> dict[str, Any]:
    """What wrote the file last; its lines say for themselves what made them, except for the precision."""
    return {
        "identity": {"dtype": options.dtype},
        "model": str(options.model),
        "model_revision": revision,
        "prompt": ASKED,
        "direction": options.direction,
        "per": options.per,
        "data": str(options.data),
        "split": options.split,
        "batch_size": options.batch_size,
        "device": options.device,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
