"""A model over every pair of a split and direction: one file a take, written whole, with a manifest beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from egoexo_xseg.data.annotations import Take, open_annotations
from egoexo_xseg.data.captions import Captions
from egoexo_xseg.data.dataset import PairReader
from egoexo_xseg.data.pairs import iter_pairs
from egoexo_xseg.data.submission import written_whole
from egoexo_xseg.data.visibility import VisibilityMap, checkpoint_map
from egoexo_xseg.errors import PredictionError, XsegError
from egoexo_xseg.jobs.manifest import settle_folder, versions
from egoexo_xseg.masks import mask_to_rle, scored_hw
from egoexo_xseg.model.checkpoint import checkpoint_hash, load_checkpoint
from egoexo_xseg.model.hub import default_model, resolve_model
from egoexo_xseg.model.inputs import Sample, collate
from egoexo_xseg.model.segmenter import CrossViewModel, Segmentation
from egoexo_xseg.progress import detail, track
from egoexo_xseg.records import Direction, Pair, Prediction

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class PredictOptions:
    """What to predict, with which model, and where to."""

    data: Path
    out: Path
    direction: Direction
    model: str | None = None  # the released checkpoint of the direction
    split: str | None = None
    takes: tuple[str, ...] = ()
    captions: Path | None = None  # a file, or a folder of shards
    shuffle_captions: int | None = None  # a seed: each object gets another one's caption, for control
    device: str | None = None  # a GPU if there is one
    dtype: str | None = None  # bfloat16 on a GPU, float32 elsewhere
    batch_size: int = 4
    shard: tuple[int, int] = (1, 1)

    def settled(self) -> PredictOptions:
        """The same with what was left open decided."""
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = self.dtype or ("bfloat16" if device.startswith("cuda") else "float32")
        return replace(self, device=device, dtype=dtype, model=self.model or default_model(self.direction))


@dataclass
class PredictSummary:
    """What a run did; `faults` names the pairs without an answer, which the same command tries again.

    `notes` names masks of the annotations that had to be skipped: nothing can be asked about them.
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
    left out; `<take_uid>.faults.txt` then asks for another try.
    """
    options = options.settled()
    annotations = open_annotations(options.data, split=options.split, takes=options.takes)
    captions = _open_captions(options)
    index, count = options.shard
    uids = annotations.take_uids[index - 1 :: count]

    summary = PredictSummary(options.out / options.direction.value)
    checkpoint = resolve_model(options.model)
    model = checkpoint_hash(checkpoint)
    calibration = checkpoint_map(checkpoint, model, options.direction)
    settle_folder(summary.folder, _manifest(options, model, calibration, captions))
    open_uids = [uid for uid in uids if not _is_done(summary.folder, uid)]
    summary.already = len(uids) - len(open_uids)
    if open_uids:
        predictor = Predictor(options, checkpoint, calibration)
        for uid in track(open_uids, f"Predicting {options.direction.value}", total=len(open_uids)):
            take = annotations.load(uid)
            summary.predictions += predictor.write_take(take, captions, summary)
            summary.takes += 1
    summary.notes += map(str, annotations.faults)
    return summary


class Predictor:
    """A loaded model and its reader, for one take after the other."""

    def __init__(self, options: PredictOptions, checkpoint: Path, calibration: VisibilityMap | None = None) -> None:
        self.options, self.calibration = options, calibration
        self.segmenter, prompts = load_checkpoint(checkpoint, device=options.device, dtype=DTYPES[options.dtype])
        config = self.segmenter.config
        self.reader = PairReader(prompts, config.image_size, config.pad_value)

    def write_take(self, take: Take, captions: Captions | None, summary: PredictSummary) -> int:
        """Predict a take into its file; returns the number of predictions."""
        faults: list[str] = []
        lines = [prediction.to_line() + "\n" for prediction in self.iter_take(take, captions, faults)]
        path = summary.folder / f"{take.take_uid}.jsonl"
        notes = path.with_suffix(".faults.txt")
        if faults:
            notes.write_text("".join(f"{fault}\n" for fault in faults), "utf-8")
        with written_whole(path) as file:
            file.writelines(lines)
        if not faults:
            notes.unlink(missing_ok=True)
        summary.faults += faults
        detail(f"take {take.take_uid}: {len(lines)} predictions, {len(faults)} faults")
        return len(lines)

    def iter_take(self, take: Take, captions: Captions | None, faults: list[str]) -> Iterator[Prediction]:
        """Predictions in the order of `iter_pairs`."""
        for batch in self.iter_batches(take, self.options.direction, captions, faults):
            yield from self._answer(batch, faults)

    def iter_batches(
        self, take: Take, direction: Direction, captions: Captions | None, faults: list[str]
    ) -> Iterator[list[tuple[Pair, Sample]]]:
        """A take's pairs, read; batches never span takes, so that a take's bytes are its own."""
        if take.folder is None:
            raise PredictionError("annotations without frames", where=f"take {take.take_uid}", remedy="xseg prepare")
        batch: list[tuple[Pair, Sample]] = []
        for pair in _iter_small(iter_pairs(take, direction, captions), self.most_objects):
            try:
                batch.append((pair, self.reader.read(pair, take.folder)))
            except XsegError as fault:
                faults.append(str(fault))
            if len(batch) == self.options.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    @property
    def most_objects(self) -> int:
        """Objects that one record can tell apart: there is a proposal for each."""
        return self.segmenter.config.decoder.num_mask_tokens

    def _answer(self, batch: Sequence[tuple[Pair, Sample]], faults: list[str]) -> Iterator[Prediction]:
        """Predictions of a batch; what does not fit into memory is tried again record by record."""
        try:
            answers = list(answer_pairs(self.segmenter, batch, self.calibration))
        except (RuntimeError, MemoryError) as fault:
            if not is_out_of_memory(fault):
                raise
            if len(batch) > 1:
                for single in batch:
                    yield from self._answer([single], faults)
            else:
                faults.append(f"{batch[0][0]}: out of memory on {self.options.device}")
            return
        yield from answers


def is_out_of_memory(fault: Exception) -> bool:
    """On a GPU torch has a type for it, on a CPU only words."""
    return isinstance(fault, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(fault)


def answer_pairs(
    segmenter: CrossViewModel, batch: Sequence[tuple[Pair, Sample]], calibration: VisibilityMap | None = None
) -> Iterator[Prediction]:
    """Masks at the size that the scorer demands."""
    pairs = [pair for pair, _ in batch]
    sizes = [scored_hw(pair.target_hw) for pair in pairs]
    answers = segmenter.segment(collate([sample for _, sample in batch]).to(segmenter.device), sizes)
    yield from to_predictions(pairs, answers, calibration)


def to_predictions(
    pairs: Sequence[Pair], answers: Sequence[Segmentation], calibration: VisibilityMap | None = None
) -> Iterator[Prediction]:
    """One per object; uncalibrated, the chosen proposal's score stands for the object's visibility."""
    for pair, answer in zip(pairs, answers, strict=True):
        masks = answer.masks.numpy()
        for entry, mask, score, margin in zip(
            pair.objects, masks, answer.scores.tolist(), answer.margins.tolist(), strict=True
        ):
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
            )
            yield calibration.apply(prediction, entry.query_mask) if calibration else prediction


def _iter_small(pairs: Iterator[Pair], most: int) -> Iterator[Pair]:
    """Pairs of at most `most` objects; larger ones in several parts."""
    for pair in pairs:
        for start in range(0, len(pair.objects), most):
            yield replace(pair, objects=pair.objects[start : start + most])


def _is_done(folder: Path, uid: str) -> bool:
    return (folder / f"{uid}.jsonl").is_file() and not (folder / f"{uid}.faults.txt").exists()


def _open_captions(options: PredictOptions) -> Captions | None:
    if options.captions is None:
        if options.shuffle_captions is not None:
            raise PredictionError("no captions to shuffle", remedy="Give --captions FILE")
        return None
    captions = Captions.read(options.captions)
    return captions if options.shuffle_captions is None else captions.shuffled(options.shuffle_captions)


def _manifest(
    options: PredictOptions, model: str, calibration: VisibilityMap | None, captions: Captions | None
) -> dict[str, Any]:
    """What made the folder; `identity` must be the same for all of it."""
    return {
        "identity": {
            "model": model,
            "calibration": calibration.digest if calibration else None,
            "captions": captions.hash if captions else None,
            "shuffle_captions": options.shuffle_captions,
            "dtype": options.dtype,
            "direction": options.direction.value,
        },
        "model": str(options.model),
        "captions": str(options.captions) if options.captions else None,
        "data": str(options.data),
        "split": options.split,
        "batch_size": options.batch_size,
        "device": options.device,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
