"""What the analyses share: a model that sees each image once, scores, intervals by take, and what is written."""

from __future__ import annotations

import csv
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from egoexo_xseg.data.annotations import Take, open_annotations
from egoexo_xseg.data.captions import Captions
from egoexo_xseg.data.intervals import interval, total_and_draws
from egoexo_xseg.data.scoring import score_take
from egoexo_xseg.data.submission import pair_key
from egoexo_xseg.data.visibility import VisibilityMap, checkpoint_map
from egoexo_xseg.errors import XsegError, is_out_of_memory
from egoexo_xseg.files import written_whole
from egoexo_xseg.jobs.charts import write_figure
from egoexo_xseg.jobs.manifest import settle_folder, versions
from egoexo_xseg.jobs.predict import DTYPES, Fault, PredictOptions, Predictor, to_predictions
from egoexo_xseg.masks import rle_to_mask, scored_hw
from egoexo_xseg.model import answers
from egoexo_xseg.model.answers import Sight
from egoexo_xseg.model.checkpoint import checkpoint_hash
from egoexo_xseg.model.inputs import Batch, Sample, collate, distinct_views, fit_mask
from egoexo_xseg.model.mask_decoder import Canvas
from egoexo_xseg.model.segmenter import CrossViewModel, Encoding, Reading
from egoexo_xseg.model.store import fetch_model
from egoexo_xseg.progress import track
from egoexo_xseg.records import Direction, Pair, Prediction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEPT_BYTES = 1 << 30
"""Encodings that are remembered: a whole take's of a small model, a moment's of the full one."""

Columns = dict[str, np.ndarray]
"""What was measured, a row per object and target frame, by name; `take_uid` says whose each row is."""


@dataclass(frozen=True)
class AnalyzeOptions:
    """Which model's answers are looked into, on what, and where the results go."""

    data: Path
    out: Path
    directions: tuple[Direction, ...] = tuple(Direction)
    model: str | None = None  # the released checkpoint of each direction
    split: str | None = None
    takes: tuple[str, ...] = ()
    captions: Path | None = None
    device: str | None = None  # a GPU if there is one
    batch_size: int = 4

    def predict(self, direction: Direction) -> PredictOptions:
        """What `xseg predict` would be given."""
        return PredictOptions(
            data=self.data,
            out=self.out,
            direction=direction,
            model=self.model,
            device=self.device,
            batch_size=self.batch_size,
        ).settled()


@dataclass(frozen=True)
class Look:
    """Some pairs of a take and direction, and what the model sees of them."""

    direction: Direction
    pairs: list[Pair]
    sight: Sight


class Analyst:
    """A loaded model that encodes each image of a take once, whichever pairs and directions ask for it."""

    def __init__(self, predictor: Predictor, calibrations: Mapping[Direction, VisibilityMap | None]) -> None:
        self.predictor, self.calibrations = predictor, calibrations
        self._encodings: OrderedDict[str, Encoding] = OrderedDict()

    @property
    def segmenter(self) -> CrossViewModel:
        return self.predictor.segmenter

    def iter_looks(self, take: Take, direction: Direction, faults: list[str]) -> Iterator[Look]:
        """A take's pairs, batch by batch, in the order in which they are predicted; `read` tells them captions."""
        missed: list[Fault] = []
        for found in self.predictor.iter_batches(take, [direction], None, missed):
            samples = [sample for _, sample in found]
            batch = collate(samples).to(self.segmenter.device)
            sight = Sight.of(self.segmenter, batch, self._encode(samples, batch))
            yield Look(direction, [pair for pair, _ in found], sight)
        faults += [fault for _, fault in missed]

    def _encode(self, samples: Sequence[Sample], batch: Batch) -> Encoding:
        """Each image by itself: in company it would come out different in its last digits."""
        found = []
        for name, image in zip(distinct_views(samples), batch.images, strict=True):
            if name not in self._encodings:
                self._encodings[name] = self.segmenter.encode(image[None])
            self._encodings.move_to_end(name)
            found.append(self._encodings[name])
        size = sum(part.nbytes for part in (*found[0].features, found[0].tokens))
        while len(self._encodings) * size > KEPT_BYTES:
            self._encodings.popitem(last=False)
        features = tuple(torch.cat(level) for level in zip(*(each.features for each in found), strict=True))
        return Encoding(features, torch.cat([each.tokens for each in found]))

    def read(self, look: Look, captions: Captions | None) -> Reading:
        """What the language model makes of the objects, told these captions."""
        prompts = []
        for pair in look.pairs:
            places = [(pair.take_uid, entry.object_id, pair.query_camera, pair.frame) for entry in pair.objects]
            told = [captions.of(*place) if captions else None for place in places]
            prompts.append(self.predictor.prompts.build(told))
        batch = replace(look.sight.batch, prompts=tuple(prompts))
        return answers.read(self.segmenter, replace(look.sight, batch=batch))

    def answer(self, look: Look, canvas: Canvas, reading: Reading) -> Iterator[Prediction]:
        """What `xseg predict` would write."""
        sizes = [scored_hw(pair.target_hw) for pair in look.pairs]
        found = answers.choose(self.segmenter, look.sight, canvas, reading, sizes)
        yield from to_predictions(look.pairs, found, self.calibrations[look.direction])

    def target_masks(self, look: Look) -> Bool[Tensor, "B K S S"]:
        """The truth, fitted; hidden objects have empty masks."""
        query_masks = look.sight.batch.query_masks
        masks = torch.zeros_like(query_masks, device="cpu")
        for own, pair in zip(masks, look.pairs, strict=True):
            for row, entry in zip(own, pair.objects, strict=False):
                if entry.target_mask is not None:
                    row[:] = torch.from_numpy(fit_mask(rle_to_mask(entry.target_mask), masks.shape[-1]))
        return masks.to(query_masks.device)


Measure = Callable[[Analyst, Take, Direction, list[str]], Columns]
"""Measures one take in one direction; what cannot be read goes to the list of faults. No rows are no columns."""


class Study:
    """Takes under one model, or under each direction's own; `faults` names the pairs that had to be left out."""

    def __init__(self, options: AnalyzeOptions) -> None:
        self.options = options
        self.annotations = open_annotations(options.data, split=options.split, takes=options.takes)
        self.predicts = {direction: options.predict(direction) for direction in options.directions}
        self.checkpoints = {
            direction: fetch_model(each.model, dtype=DTYPES[each.dtype]) for direction, each in self.predicts.items()
        }
        hashes = {checkpoint: checkpoint_hash(checkpoint) for checkpoint in set(self.checkpoints.values())}
        self.models = [hashes[checkpoint] for checkpoint in self.checkpoints.values()]
        self.calibrations = {
            direction: checkpoint_map(checkpoint, hashes[checkpoint], direction)
            for direction, checkpoint in self.checkpoints.items()
        }
        self.faults: list[str] = []
        self._analysts: dict[Path, Analyst] = {}

    def analyst(self, direction: Direction) -> Analyst:
        """The direction's model; directions that share a checkpoint share it."""
        checkpoint = self.checkpoints[direction]
        if checkpoint not in self._analysts:
            self._analysts[checkpoint] = Analyst(Predictor(self.predicts[direction], checkpoint), self.calibrations)
        return self._analysts[checkpoint]

    def begin(self, analysis: str, **more: object) -> None:
        """Write the manifest, or refuse a folder that holds other results; `more` decides them too."""
        options, first = self.options, self.predicts[self.options.directions[0]]
        captions = options.captions
        identity = {
            "analysis": analysis,
            "direction": [direction.value for direction in options.directions],
            "model": self.models,
            "calibration": [each.digest if each else None for each in self.calibrations.values()],
            "choice of takes": list(self.annotations.take_uids),
            "captions": Captions.read(captions).hash if captions else None,
            "dtype": first.dtype,
        }
        manifest = {
            "identity": identity | more,
            "model": [each.model for each in self.predicts.values()],
            "data": str(options.data),
            "split": options.split,
            "captions": str(captions) if captions else None,
            "batch_size": options.batch_size,
            "device": first.device,
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }
        settle_folder(options.out, manifest, holds="results")

    @torch.inference_mode()
    def measure(self, function: Measure, name: str = "answers") -> dict[Direction, Columns]:
        """Measure every take; each part is kept in `OUT/takes`, so that a killed run goes on where it stopped.

        A take of which something could not be read is not kept: the same command tries it again.
        """
        parts: dict[Direction, list[Columns]] = {direction: [] for direction in self.options.directions}
        for uid in track(self.annotations.take_uids, "Analyzing takes", total=len(self.annotations)):
            take: Take | None = None
            for direction, own in parts.items():
                path = self.options.out / "takes" / f"{name}-{direction.value}" / f"{uid}.npz"
                part = _read_part(path)
                if part is None:
                    take = take or self.annotations.load(uid)
                    faults: list[str] = []
                    part = self._measure_take(function, take, direction, faults)
                    if not faults:
                        _write_part(path, part)
                    self.faults += faults
                own.append({"take_uid": np.full(len(next(iter(part.values()))), uid), **part} if part else {})
        joined = {direction: _join(own) for direction, own in parts.items()}
        for direction, columns in joined.items():
            if not columns:
                raise XsegError(f"nothing to compare {direction.value}", where=self.options.data)
        return joined

    def _measure_take(self, function: Measure, take: Take, direction: Direction, faults: list[str]) -> Columns:
        try:
            return function(self.analyst(direction), take, direction, faults)
        except (RuntimeError, MemoryError) as fault:
            if not is_out_of_memory(fault):
                raise
            device, where = self.predicts[direction].device, f"take {take.take_uid}"
            raise XsegError(f"out of memory on {device}", where=where, remedy="Give a smaller --batch-size") from None


def _join(parts: Iterable[Columns]) -> Columns:
    parts = [part for part in parts if part]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _read_part(path: Path) -> Columns | None:
    """None where there is none, or a damaged one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write_part(path: Path, part: Columns) -> None:
    with written_whole(path, "wb") as file:
        np.savez(file, **part)


def score(take: Take, direction: Direction, answers: Sequence[Iterable[Prediction]]) -> Columns:
    """Official scores of V ways to answer the same pairs: `iou` and `confidence` are (rows, V)."""
    tables = [score_take(take, direction, _entry(predictions), []) for predictions in answers]
    first = tables[0]
    if not first:
        return {}
    columns = {
        name: np.array([getattr(sample, name) for sample in first])
        for name in ("object_id", "query_camera", "target_camera", "frame", "visible")
    }
    columns["area_share"] = np.array([sample.area_share for sample in first], np.float64)  # None becomes nan
    for name in ("iou", "confidence"):
        columns[name] = np.array([[getattr(sample, name) for sample in table] for table in tables], np.float64).T
    return columns


def _entry(predictions: Iterable[Prediction]) -> dict[str, object]:
    """A take as a submission holds it. Pairs that could not be read are in none, and in no table."""
    masks: dict[str, dict[str, dict[str, object]]] = {}
    for each in predictions:
        frames = masks.setdefault(each.object_id, {}).setdefault(pair_key(each.query_camera, each.target_camera), {})
        frames[str(each.frame)] = {"pred_mask": each.mask.to_json(), "confidence": each.visibility}
    return {"masks": masks}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, with the interval that holds 95% of it when takes are drawn anew."""

    value: float
    low: float
    high: float
    samples: int

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    @property
    def cells(self) -> tuple[int | str, ...]:
        return self.samples, *(f"{value:.6f}" for value in (self.value, self.low, self.high))


def estimate(
    take_uids: np.ndarray,
    columns: Float[np.ndarray, "n C"],
    statistic: Callable[[np.ndarray], np.ndarray],
) -> Estimate:
    """A statistic of the columns' totals; it is given many rows of them at once, and answers one value each.

    What stands in one row is drawn together: differences of columns are paired, by row and by take.
    """
    _, owner = np.unique(take_uids, return_inverse=True)
    sums = np.zeros((owner.max() + 1 if len(owner) else 1, columns.shape[1]))
    np.add.at(sums, owner, columns)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Estimate(*interval(statistic(total_and_draws(sums))), len(columns))


def mean(take_uids: np.ndarray, values: Float[np.ndarray, " n"]) -> Estimate:
    return estimate(take_uids, np.stack([values, np.ones(len(values))], 1), lambda sums: sums[:, 0] / sums[:, 1])


def intervals_note(take_uids: np.ndarray) -> str:
    """What brackets mean."""
    takes = len(np.unique(take_uids))
    if takes == 1:
        return "All of it is one take: intervals need several."
    return f"Brackets: 95% intervals from drawing the {takes} takes anew."


def write_results(
    out: Path,
    name: str,
    table: tuple[Sequence[str], Iterable[Sequence[object]]],
    text: str,
    draw: Callable[[], Figure],
) -> None:
    """`NAME.csv` of a header and rows, `NAME.md`, and `NAME.png`."""
    header, rows = table
    with written_whole(out / f"{name}.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    with written_whole(out / f"{name}.md") as file:
        file.write(text)
    write_figure(draw, out / f"{name}.png")
