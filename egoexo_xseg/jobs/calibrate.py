"""Visibility judged by what predictions show: learnt from a validation split, kept, and applied."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from egoexo_xseg import __version__
from egoexo_xseg.data.annotations import Annotations, Take, open_annotations
from egoexo_xseg.data.logistic import Reliability
from egoexo_xseg.data.pairs import iter_pairs
from egoexo_xseg.data.predictions import predicted_directions, read_take_predictions
from egoexo_xseg.data.visibility import FILE_NAME, SIGNALS, Calibration, VisibilityMap, measure, read_calibration
from egoexo_xseg.errors import MaskError, PredictionError, XsegError
from egoexo_xseg.files import written_whole
from egoexo_xseg.jobs.manifest import MANIFEST, read_manifest, settle_folder
from egoexo_xseg.jobs.reliability import ReliabilityPanel, draw_reliability
from egoexo_xseg.jobs.visibility_fit import Judged, Samples, judge
from egoexo_xseg.parallel import map_processes
from egoexo_xseg.progress import track
from egoexo_xseg.records import Direction

PICTURE = "reliability.png"


@dataclass(frozen=True)
class CalibrateOptions:
    """Which predictions to learn from, and where to keep what was learnt: their checkpoint, a folder, or both."""

    predictions: Path
    data: Path
    split: str | None = None
    model: Path | None = None
    out: Path | None = None
    workers: int | None = None


@dataclass
class CalibrateSummary:
    """What came of each direction; `notes` says what was left out and why."""

    judged: dict[Direction, Judged] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def calibrate(options: CalibrateOptions) -> CalibrateSummary:
    """Learn a map from signals to visibility for every direction that was predicted, and keep it.

    With `model`, in the checkpoint's folder, for `predict` to apply; with `out`, in a folder that also receives the
    predictions with new confidences. Directions that teach nothing are named in the notes; it is an error if all do.
    """
    if options.model is None and options.out is None:
        raise XsegError("nowhere to keep the calibration", remedy="Give --model, --out or both")
    annotations = open_annotations(options.data, split=options.split)
    summary = CalibrateSummary()
    models = _models(options, summary.notes)
    about = {"xseg": __version__, "data": str(options.data), "split": options.split}
    for direction, samples in gather(options, annotations, list(models), summary.notes).items():
        if samples.fault:
            summary.notes.append(f"{direction.value}: {samples.fault}")
        else:
            captions = read_manifest(options.predictions / direction.value / MANIFEST).get("captions")
            summary.judged[direction] = judge(samples, models[direction], {**about, "captions": captions})
    if not summary.judged:
        raise PredictionError(f"nothing to learn from; {'; '.join(summary.notes)}", where=options.predictions)
    calibration = {direction: judged.map for direction, judged in summary.judged.items()}
    if options.out is not None:
        apply_calibration(options.predictions, annotations, calibration, options.out)
        summary.files += _keep(calibration, summary.judged, options.out)
    if options.model is not None:
        summary.files += _keep(_others(options.model, calibration) | calibration, summary.judged, options.model)
    summary.notes += map(str, annotations.faults)
    return summary


def recalibrate(options: CalibrateOptions, source: Path) -> int:
    """Apply the calibration of a file instead of learning one; returns how many predictions `out` received."""
    if options.out is None or options.model is not None:
        raise XsegError("a calibration that is given is applied to predictions", remedy="Give --out, and no --model")
    annotations = open_annotations(options.data, split=options.split)
    return apply_calibration(options.predictions, annotations, read_calibration(source), options.out)


def _models(options: CalibrateOptions, notes: list[str]) -> dict[Direction, str | None]:
    """The directions to calibrate, with the hash of the model that predicted each; None if nothing tells it."""
    folder = options.predictions
    found = {d: _model_of(read_manifest(folder / d.value / MANIFEST)) for d in predicted_directions(folder)}
    if options.model is None:
        return found
    from egoexo_xseg.model.checkpoint import checkpoint_hash  # brings torch, which other methods do without

    own = checkpoint_hash(options.model)
    notes += [f"{d.value}: not predicted by {options.model} as it is now" for d, model in found.items() if model != own]
    return {direction: model for direction, model in found.items() if model == own}


def _model_of(manifest: dict[str, Any]) -> str | None:
    return manifest.get("identity", {}).get("model")


def gather(
    options: CalibrateOptions, annotations: Annotations, directions: Sequence[Direction], notes: list[str]
) -> dict[Direction, Samples]:
    """Every annotated target with a prediction, by direction; those without one are counted in `notes`."""
    rows: dict[Direction, list[Float64[np.ndarray, "n C"]]] = {direction: [] for direction in directions}
    takes: dict[Direction, list[str]] = {direction: [] for direction in directions}
    missing = dict.fromkeys(directions, 0)
    measured = map_processes(partial(_read_take, options.predictions, tuple(directions)), annotations, options.workers)
    for uid, found in track(measured, "Measuring predictions", total=len(annotations)):
        for direction, (own, lacking) in found.items():
            rows[direction].append(own)
            takes[direction] += [uid] * len(own)
            missing[direction] += lacking
    notes += [f"{d.value}: {count} annotated targets have no prediction" for d, count in missing.items() if count]
    return {direction: _samples(np.concatenate(rows[direction]), takes[direction]) for direction in directions}


def _samples(rows: Float64[np.ndarray, "N C"], takes: Sequence[str]) -> Samples:
    """Signals that some prediction lacks are left out."""
    told = ~np.isnan(rows[:, 2:]).any(0)
    names = tuple(name for name, kept in zip(SIGNALS, told, strict=True) if kept)
    return Samples(names, rows[:, 2:][:, told], rows[:, 0], rows[:, 1] > 0, tuple(takes))


def _read_take(
    predictions: Path, directions: Sequence[Direction], take: Take
) -> tuple[str, dict[Direction, tuple[Float64[np.ndarray, "n C"], int]]]:
    """By direction: confidence, truth and signals (NaN where lacking) of annotated targets, and how many unanswered."""
    found = {}
    for direction in directions:
        answers = read_take_predictions(predictions, direction, take.take_uid)
        rows, missing = [], 0
        for pair in iter_pairs(take, direction):
            for item in pair.objects:
                answer = answers.get((item.object_id, pair.query_camera, pair.target_camera, pair.frame))
                if not item.annotated or answer is None:
                    missing += item.annotated
                    continue
                try:
                    signals = measure(answer, item.query_mask)
                except MaskError as fault:
                    raise PredictionError(fault.problem, where=f"{pair}, object {item.object_id!r}") from None
                rows.append([answer.visibility, item.visible, *(signals.get(name, np.nan) for name in SIGNALS)])
        found[direction] = np.array(rows, np.float64).reshape(-1, 2 + len(SIGNALS)), missing
    return take.take_uid, found


def apply_calibration(predictions: Path, annotations: Annotations, calibration: Calibration, out: Path) -> int:
    """Write predictions anew into `out`, with confidences by `calibration`; returns how many.

    A method's own confidence stays in the line as `score`. Refused where another model predicted than the calibration
    is for; predictions that the annotations do not ask for are left out.
    """
    if out.resolve() == predictions.resolve():
        raise PredictionError("predictions are not rewritten in place", where=out, remedy="Choose another --out")
    directions = [direction for direction in predicted_directions(predictions) if direction in calibration]
    if not directions:
        wanted = " or ".join(direction.value for direction in calibration) or "anything"
        raise PredictionError(f"no predictions of {wanted} here, which is what was calibrated", where=predictions)
    for direction in directions:
        folder, chosen = predictions / direction.value, calibration[direction]
        manifest = read_manifest(folder / MANIFEST)
        if _model_of(manifest) != chosen.model:
            raise PredictionError("predicted by another model than the calibration is for", where=folder)
        identity = {**manifest.get("identity", {}), "calibration": chosen.digest}
        settle_folder(out / direction.value, {**manifest, "identity": identity, "calibrated": str(predictions)})
    return sum(
        _apply_to_take(predictions, take, direction, calibration[direction], out)
        for take in track(annotations, "Calibrating", total=len(annotations))
        for direction in directions
    )


def _apply_to_take(predictions: Path, take: Take, direction: Direction, chosen: VisibilityMap, out: Path) -> int:
    if not (predictions / direction.value / f"{take.take_uid}.jsonl").is_file():
        return 0
    lines = []
    for key, prediction in read_take_predictions(predictions, direction, take.take_uid).items():
        object_id, query, _, frame = key
        query_mask = take.masks.get(object_id, {}).get(query, {}).get(frame)
        if query_mask is None:
            continue
        try:
            lines.append(chosen.apply(prediction, query_mask).to_line() + "\n")
        except (MaskError, PredictionError) as fault:
            where = f"{predictions / direction.value}, take {take.take_uid}, object {object_id!r}, frame {frame}"
            raise PredictionError(fault.problem, where=where) from None
    with written_whole(out / direction.value / f"{take.take_uid}.jsonl") as file:
        file.writelines(lines)
    return len(lines)


def _others(folder: Path, calibration: Calibration) -> Calibration:
    """What a checkpoint's file holds already that is for the same weights."""
    path = folder / FILE_NAME
    models = {chosen.model for chosen in calibration.values()}
    before = read_calibration(path) if path.is_file() else {}
    return {direction: chosen for direction, chosen in before.items() if chosen.model in models}


def _keep(calibration: Calibration, judged: dict[Direction, Judged], folder: Path) -> list[Path]:
    """The calibration, and beside it a picture of how true it is."""
    values = {direction.value: calibration[direction].to_json() for direction in Direction if direction in calibration}
    with written_whole(folder / FILE_NAME) as file:
        file.write(json.dumps(values, indent=1) + "\n")
    draw_reliability([_panel(direction, own) for direction, own in judged.items()], folder / PICTURE)
    return [folder / FILE_NAME, folder / PICTURE]


def _panel(direction: Direction, judged: Judged) -> ReliabilityPanel:
    samples = judged.samples
    accuracy = {
        name: f"balanced accuracy {quality.balanced_accuracy:.1%}" for name, quality in judged.qualities.items()
    }
    shown = "cross-validated" if judged.folds else "on the same takes"
    return ReliabilityPanel(
        title=direction.value,
        before=Reliability.of(samples.confidence, samples.visible),
        after=Reliability.of(judged.confidences[judged.chosen], samples.visible),
        before_label=f"as predicted: {accuracy['as predicted']}",
        after_label=f"{shown}: {accuracy[judged.chosen]}",
        foot=f"{len(samples):,} targets, {len(set(samples.takes))} takes",
    )
