"""A model over every pair of a split and direction: one file a take, written whole, with a manifest beside them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from egoexo_xseg.data.annotations import Annotations, Take, open_annotations
from egoexo_xseg.data.captions import Captions
from egoexo_xseg.data.dataset import PairReader
from egoexo_xseg.data.pairs import iter_pairs
from egoexo_xseg.data.predictions import is_predicted, note_shard
from egoexo_xseg.data.shards import shard_takes
from egoexo_xseg.data.visibility import VisibilityMap, checkpoint_map
from egoexo_xseg.errors import PredictionError, XsegError, is_out_of_memory
from egoexo_xseg.files import written_whole
from egoexo_xseg.jobs.manifest import refuse_other, settle_folder, versions
from egoexo_xseg.masks import mask_to_rle, scored_hw
from egoexo_xseg.model.answers import Segmentation, segment
from egoexo_xseg.model.checkpoint import checkpoint_hash, load_checkpoint
from egoexo_xseg.model.hub import default_model
from egoexo_xseg.model.inputs import Batch, Sample, collate
from egoexo_xseg.model.segmenter import CrossViewModel
from egoexo_xseg.model.store import fetch_model, read_origin
from egoexo_xseg.parallel import keep_freed_memory, map_ahead
from egoexo_xseg.progress import detail, track
from egoexo_xseg.records import Direction, Pair, Prediction

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

BATCH_SIZES = {"cpu": 4, "cuda": 16}
"""Records at a time by kind of device."""


@dataclass(frozen=True)
class PredictOptions:
    """What to predict, with which model, and where to."""

    data: Path
    out: Path
    direction: Direction | None  # both
    model: str | None = None  # the released checkpoint of the direction
    split: str | None = None
    takes: tuple[str, ...] = ()
    captions: Path | None = None  # a file, or a folder of shards
    shuffle_captions: int | None = None  # a seed: each object gets another one's caption, for control
    device: str | None = None  # a GPU if there is one
    dtype: str | None = None  # float16 on a GPU, as the released models were trained; float32 elsewhere
    batch_size: int | None = None
    shard: tuple[int, int] = (1, 1)

    @property
    def directions(self) -> tuple[Direction, ...]:
        return (self.direction,) if self.direction else tuple(Direction)

    def settled(self) -> PredictOptions:
        """The same with what was left open decided."""
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return replace(
            self,
            device=device,
            dtype=self.dtype or ("float16" if device.startswith("cuda") else "float32"),
            model=self.model or default_model(self.direction),
            batch_size=self.batch_size or BATCH_SIZES["cuda" if device.startswith("cuda") else "cpu"],
        )


@dataclass
class PredictSummary:
    """What a run did; `faults` names the pairs without an answer, which the same command tries again.

    `notes` names masks of the annotations that had to be skipped: nothing can be asked about them. A take counts once,
    in however many directions it was predicted.
    """

    folder: Path
    takes: int = 0
    already: int = 0
    predictions: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_device(device: str | None) -> None:
    """Refuse a device that torch does not know or cannot see."""
    if device is None:
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        seen = f"{torch.cuda.device_count()} CUDA devices are seen"
        raise XsegError(f"no device {device!r} here", remedy=f"Use cpu or cuda; {seen}") from None


def predict(options: PredictOptions) -> PredictSummary:
    """Predict masks and visibility for every object, camera pair and query frame of a split.

    Each take becomes `<out>/<direction>/<take_uid>.jsonl`, written under a temporary name and renamed, so that a
    killed run continues with the take that it had begun, and ends with the same bytes. A pair that fails is named and
    left out; `<take_uid>.faults.txt` then asks for another try. Both directions together share what they look at.
    """
    options = options.settled()
    annotations = open_annotations(options.data, split=options.split, takes=options.takes)
    captions = _open_captions(options, annotations)
    uids = shard_takes(annotations, *options.shard)

    summary = PredictSummary(options.out / options.direction.value if options.direction else options.out)
    checkpoint = fetch_model(options.model, dtype=DTYPES[options.dtype])
    model = checkpoint_hash(checkpoint)
    calibrations = {direction: checkpoint_map(checkpoint, model, direction) for direction in options.directions}
    manifests = {}
    for direction, calibration in calibrations.items():
        manifests[direction] = _manifest(options, direction, (checkpoint, model), calibration, captions)
        refuse_other(options.out / direction.value, manifests[direction])
    missing = {uid: [each for each in options.directions if not is_predicted(options.out, each, uid)] for uid in uids}
    missing = {uid: directions for uid, directions in missing.items() if directions}
    summary.already = len(uids) - len(missing)
    # Before anything is written: it may turn out to be no model.
    predictor = Predictor(options, checkpoint, calibrations) if missing else None
    for direction, manifest in manifests.items():
        settle_folder(options.out / direction.value, manifest)
        note_shard(options.out, direction, options.shard, uids)
    if predictor:
        label = f"Predicting {options.direction.value if options.direction else 'both ways'}"
        for uid, directions in track(missing.items(), label, total=len(missing)):
            predictor.write_take(annotations.load(uid), directions, captions, summary)
    summary.notes += map(str, annotations.faults)
    return summary


Question = tuple[Pair, Sample]
Fault = tuple[Pair, str]
"""A pair, and why it has no answer."""


class Predictor:
    """A loaded model, for one take after the other: frames are read ahead of it, and masks written down behind it."""

    def __init__(
        self,
        options: PredictOptions,
        checkpoint: Path,
        calibrations: Mapping[Direction, VisibilityMap | None] | None = None,
    ) -> None:
        self.options, self.calibrations = options, calibrations or {}
        keep_freed_memory()
        self.segmenter, self.prompts = load_checkpoint(checkpoint, device=options.device, dtype=DTYPES[options.dtype])
        # On a CPU the model wants the processors for itself.
        self.readers = 1 if options.device == "cpu" else min(8, os.cpu_count() or 1)

    def write_take(
        self, take: Take, directions: Sequence[Direction], captions: Captions | None, summary: PredictSummary
    ) -> None:
        """Predict a take into a file for each direction."""
        lines: dict[Direction, list[str]] = {direction: [] for direction in directions}
        faults: list[Fault] = []
        with ThreadPoolExecutor(1) as scribe:
            written = [
                scribe.submit(self._spell, answered)
                for batch, joined in map_ahead(self._join, self.iter_batches(take, directions, captions, faults), 1)
                if (answered := self._answer(batch, joined, faults))
            ]
            for spelt in written:
                for direction, line in spelt.result():
                    lines[direction].append(line)
        for direction in directions:
            path = self.options.out / direction.value / f"{take.take_uid}.jsonl"
            own = [f"{fault}\n" for pair, fault in faults if pair.direction is direction]
            notes = path.with_suffix(".faults.txt")
            if own:
                with written_whole(notes) as file:
                    file.writelines(own)
            with written_whole(path) as file:
                file.writelines(lines[direction])
            if not own:
                notes.unlink(missing_ok=True)
            detail(f"take {take.take_uid}, {direction.value}: {len(lines[direction])} predictions, {len(own)} faults")
            summary.predictions += len(lines[direction])
        summary.faults += [fault for _, fault in faults]
        summary.takes += 1

    def iter_batches(
        self, take: Take, directions: Sequence[Direction], captions: Captions | None, faults: list[Fault]
    ) -> Iterator[list[Question]]:
        """A take's pairs, read: whole frames, until there are `batch_size` records.

        Records of one frame share images, so they stay together. Batches never span takes, so that a take's bytes are
        its own.
        """
        if take.folder is None:
            raise PredictionError("annotations without frames", where=f"take {take.take_uid}", remedy="xseg prepare")
        pairs = (pair for direction in directions for pair in iter_pairs(take, direction, captions))
        parts = sorted(_iter_small(pairs, self.most_objects), key=lambda pair: pair.frame)  # stable
        frames = [list(frame) for _, frame in groupby(parts, key=lambda pair: pair.frame)]
        batch: list[Question] = []
        for pairs in map_ahead(partial(self._read_frame, take.folder), frames, self.readers):
            for pair, sample in pairs:
                if isinstance(sample, XsegError):
                    faults.append((pair, str(sample)))
                else:
                    batch.append((pair, sample))
            if len(batch) >= self.options.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _read_frame(self, folder: Path, pairs: Sequence[Pair]) -> list[tuple[Pair, Sample | XsegError]]:
        """The pairs of one frame, each image and mask read once."""
        config = self.segmenter.config
        reader = PairReader(self.prompts, config.image_size, config.pad_value)
        read: list[tuple[Pair, Sample | XsegError]] = []
        for pair in pairs:
            try:
                read.append((pair, reader.read(pair, folder)))
            except XsegError as fault:
                read.append((pair, fault))
        return read

    @property
    def most_objects(self) -> int:
        """Objects that one record can tell apart: there is a proposal for each."""
        return self.segmenter.config.decoder.num_mask_tokens

    def _join(self, batch: list[Question]) -> tuple[list[Question], Batch | None]:
        """With the records as the model takes them, for a GPU to fetch while it works; None if they are too large."""
        try:
            joined = collate([sample for _, sample in batch])
            return batch, joined.pin_memory() if self.segmenter.device.type == "cuda" else joined
        except (RuntimeError, MemoryError) as fault:
            if not is_out_of_memory(fault):
                raise
            return batch, None

    def _answer(
        self, batch: Sequence[Question], joined: Batch | None, faults: list[Fault]
    ) -> list[tuple[Pair, Segmentation]]:
        """A batch's answers; what fails or does not fit into memory is tried again record by record."""
        problem = f"out of memory on {self.options.device}"
        try:
            if joined is not None:
                return answer_pairs(self.segmenter, [pair for pair, _ in batch], joined)
        except XsegError as fault:
            problem = f"{fault.problem}. {fault.remedy}"
        except (RuntimeError, MemoryError) as fault:
            if not is_out_of_memory(fault):
                raise
        if len(batch) == 1:
            pair, _ = batch[0]
            faults.append((pair, f"{pair}: {problem}"))
            return []
        return [answer for single in batch for answer in self._answer(*self._join([single]), faults)]

    def _spell(self, answered: Sequence[tuple[Pair, Segmentation]]) -> list[tuple[Direction, str]]:
        """Answers as lines of text, while the model is busy with the next ones."""
        lines = []
        for pair, answer in answered:
            for prediction in to_predictions([pair], [answer], self.calibrations.get(pair.direction)):
                lines.append((pair.direction, prediction.to_line() + "\n"))
        return lines


def answer_pairs(segmenter: CrossViewModel, pairs: Sequence[Pair], joined: Batch) -> list[tuple[Pair, Segmentation]]:
    """Masks at the size that the scorer demands."""
    sizes = [scored_hw(pair.target_hw) for pair in pairs]
    return list(zip(pairs, segment(segmenter, joined.to(segmenter.device), sizes), strict=True))


def to_predictions(
    pairs: Sequence[Pair], answers: Sequence[Segmentation], calibration: VisibilityMap | None = None
) -> Iterator[Prediction]:
    """One per object; uncalibrated, the chosen proposal's score stands for the object's visibility."""
    for pair, answer in zip(pairs, answers, strict=True):
        masks = answer.masks.numpy()
        told = (answer.scores.tolist(), answer.margins.tolist(), answer.likenesses.tolist())
        for entry, mask, score, margin, likeness in zip(pair.objects, masks, *told, strict=True):
            prediction = Prediction(
                take_uid=pair.take_uid,
                object_id=entry.object_id,
                query_camera=pair.query_camera,
                target_camera=pair.target_camera,
                frame=pair.frame,
                mask=mask_to_rle(np.asarray(mask)),
                visibility=min(max(score, 0.0), 1.0),
                score=min(max(score, 0.0), 1.0),
                margin=margin,
                likeness=likeness,
            )
            yield calibration.apply(prediction, entry.query_mask) if calibration else prediction


def _iter_small(pairs: Iterator[Pair], most: int) -> Iterator[Pair]:
    """Pairs of at most `most` objects; larger ones in several parts."""
    for pair in pairs:
        for start in range(0, len(pair.objects), most):
            yield replace(pair, objects=pair.objects[start : start + most])


def _open_captions(options: PredictOptions, annotations: Annotations) -> Captions | None:
    if options.captions is None:
        if options.shuffle_captions is not None:
            raise PredictionError("no captions to shuffle", remedy="Give --captions FILE")
        return None
    captions = Captions.read(options.captions, annotations.take_uids)
    return captions if options.shuffle_captions is None else captions.shuffled(options.shuffle_captions)


def _manifest(
    options: PredictOptions,
    direction: Direction,
    model: tuple[Path, str],
    calibration: VisibilityMap | None,
    captions: Captions | None,
) -> dict[str, Any]:
    """What made the folder; `identity` must be the same for all of it."""
    return {
        "identity": {
            "model": model[1],
            "calibration": calibration.digest if calibration else None,
            "captions": captions.hash if captions else None,
            "shuffle_captions": options.shuffle_captions,
            "dtype": options.dtype,
            "direction": direction.value,
        },
        "model": str(options.model),
        **({"origin": origin} if (origin := read_origin(model[0])) else {}),
        "captions": str(options.captions) if options.captions else None,
        "data": str(options.data),
        "split": options.split,
        "batch_size": options.batch_size,
        "device": options.device,
        "shards": options.shard[1],
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
