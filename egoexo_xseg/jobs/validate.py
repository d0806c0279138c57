"""What the server would refuse in a submission, and what is legal but loses points, each with its place."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from egoexo_xseg.data.annotations import Annotations, Take
from egoexo_xseg.data.metrics import CONFIDENCE_THRESHOLD
from egoexo_xseg.data.pairs import required_keys
from egoexo_xseg.data.parts import find_parts
from egoexo_xseg.data.submission import STAMP, pair_key
from egoexo_xseg.errors import MaskError, SubmissionError
from egoexo_xseg.masks import Rle, parse_together, rle_to_runs, scored_hw
from egoexo_xseg.progress import track
from egoexo_xseg.records import Direction

KEPT = 10_000
"""Findings of one kind that are kept with their places; the rest is counted."""

LARGE_SHARE = 0.5
STRAY_SHARE = 0.02
"""A component smaller than this share of its mask, away from the rest, moves the box and with it the location error."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a submission, as deep as it goes; `part` is the file or a key at its top, mostly the direction's."""

    part: str
    take_uid: str | None = None
    object_id: str | None = None
    query_camera: str | None = None
    target_camera: str | None = None
    frame: int | None = None

    def __str__(self) -> str:
        take = f", take {self.take_uid}" if self.take_uid is not None else ""
        item = f", object {_shown(self.object_id)}" if self.object_id is not None else ""
        cameras = f", {self.query_camera} to {self.target_camera}" if self.query_camera is not None else ""
        return f"{self.part}{take}{item}{cameras}{f', frame {self.frame}' if self.frame is not None else ''}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault (`error`: the server refuses or stops; `warning`: legal, but it loses points or looks mistaken)."""

    severity: str
    kind: str
    place: Place
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.kind}{f' ({self.detail})' if self.detail else ''}"

    def to_json(self) -> dict[str, Any]:
        return {"severity": self.severity, "kind": self.kind, **asdict(self.place), "detail": self.detail}


@dataclass
class Report:
    """All findings, counted by kind; the first thousands of each kind with their places."""

    submission: Path
    predictions: dict[str, int] = field(default_factory=dict)
    predicted_visible: dict[str, float] = field(default_factory=dict)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        return not any(severity == "error" for severity, _ in self.counts)

    def add(self, severity: str, kind: str, place: Place, detail: str = "") -> None:
        count = self.counts[severity, kind] = self.counts.get((severity, kind), 0) + 1
        if count <= KEPT:
            self.findings.append(Finding(severity, kind, place, detail))

    def first(self, count: int) -> Iterator[Finding]:
        """The first findings of each kind."""
        seen: Counter[tuple[str, str]] = Counter()
        for finding in self.findings:
            seen[finding.severity, finding.kind] += 1
            if seen[finding.severity, finding.kind] <= count:
                yield finding

    def to_json(self) -> dict[str, Any]:
        counts = [{"severity": s, "kind": kind, "count": count} for (s, kind), count in self.counts.items()]
        return {
            "submission": str(self.submission),
            "valid": self.valid,
            "predictions": self.predictions,
            "predicted_visible": self.predicted_visible,
            "counts": counts,
            "findings": [finding.to_json() for finding in self.findings],
        }


def validate(path: Path, annotations: Annotations) -> Report:
    """Check any submission, ours or another method's, against what the annotations demand; collects, never stops."""
    report = Report(path)
    value = _read(path, report)
    if not isinstance(value, dict):
        report.add("error", "not a JSON object", Place(str(path)))
        return report
    directions = {direction.challenge_key: direction for direction in Direction}
    for key in sorted(value.keys() - directions.keys()):
        report.add("warning", "unknown top-level key", Place(_shown(key)))
    takes: dict[Direction, dict[str, Any]] = {}
    for key, direction in directions.items():
        if key not in value:
            report.add("error", "direction missing", Place(key), "the server wants both")
        else:
            takes[direction] = _check_direction(value[key], key, annotations, report)
    confidences: dict[Direction, list[float]] = {direction: [] for direction in takes}
    for take in track(annotations, "Validating takes", total=len(annotations)):
        for direction, results in takes.items():
            if take.take_uid in results:
                check = _TakeCheck(take, direction, report, confidences[direction])
                check.run(results[take.take_uid])
    for direction, own in confidences.items():
        _check_confidences(own, direction, report)
    return report


def _read(path: Path, report: Report) -> Any:
    """The JSON, with keys that stand twice and numbers that JSON does not have noted."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            counts = Counter(name for name, _ in items)
            report.add("error", "the same key twice in one JSON object", Place(_shown(counts.most_common(1)[0][0])))
        return found

    def constant(name: str) -> float:
        report.add("error", "a number that JSON does not have", Place(name))
        return float(name.replace("Infinity", "inf"))

    try:
        return json.loads(path.read_bytes(), object_pairs_hook=pairs, parse_constant=constant)
    except FileNotFoundError:
        raise SubmissionError("no such file", where=path) from None
    except (ValueError, RecursionError):
        raise SubmissionError("not readable as JSON", where=path) from None


def _check_direction(part: Any, key: str, annotations: Annotations, report: Report) -> dict[str, Any]:
    """Stamp and takes of one direction; returns the takes that can be looked into."""
    results = part.get("results") if isinstance(part, dict) else None
    if not isinstance(results, dict):
        report.add("error", "no results", Place(key))
        return {}
    for name, wanted in STAMP.items():
        if part.get(name) != wanted:
            report.add("warning", f"{name} is not {wanted!r}", Place(key), f"found {_shown(part.get(name))}")
    for uid in (*annotations.take_uids, *annotations.unprepared):
        if uid not in results:
            report.add("error", "take missing", Place(key, uid))
    for uid in sorted(results.keys() & set(annotations.unprepared)):
        report.add("warning", "take that is not prepared, and not looked into", Place(key, uid))
    for uid in sorted(results.keys() - {*annotations.take_uids, *annotations.unprepared}):
        report.add("error", "take that is not asked for", Place(key, _shown(uid)))
    return results


@dataclass
class _TakeCheck:
    """One take of one direction, from its objects down to the pixels of its masks."""

    take: Take
    direction: Direction
    report: Report
    confidences: list[float]
    masks: list[tuple[Rle, str, Place]] = field(default_factory=list)
    """With how bad it is if their runs are not those of a mask."""

    def run(self, entry: Any) -> None:
        where = Place(self.direction.challenge_key, self.take.take_uid)
        if not isinstance(entry, dict):
            self.report.add("error", "a take must be a JSON object", where)
            return
        if "subsample_idx" not in entry:
            self.report.add("error", "subsample_idx missing", where)
        elif entry["subsample_idx"] != list(self.take.sampled_frames):
            self.report.add("warning", "subsample_idx differs from the annotations'", where)
        objects = self._children(entry, "masks", where)
        required = required_keys(self.take, self.direction)
        for object_id, pairs in required.items():
            place = replace(where, object_id=object_id)
            if object_id not in objects:
                self.report.add("error", "object missing", place)
                continue
            self._check_object(objects[object_id], pairs, object_id, place)
        for object_id in sorted(objects.keys() - required.keys()):
            self.report.add("error", "object that is not asked for", replace(where, object_id=object_id))
        self._check_masks()

    def _children(self, entry: Mapping[str, Any], name: str, where: Place) -> Mapping[str, Any]:
        found = entry.get(name)
        if not isinstance(found, dict):
            self.report.add("error", f"{name} missing", where)
            return {}
        return found

    def _check_object(
        self, found: Any, pairs: Mapping[tuple[str, str], tuple[int, ...]], object_id: str, where: Place
    ) -> None:
        if not isinstance(found, dict):
            self.report.add("error", "an object must be a JSON object of camera pairs", where)
            return
        wanted = {pair_key(query, target): (query, target) for query, target in pairs}
        for key, (query, target) in wanted.items():
            place = replace(where, query_camera=query, target_camera=target)
            if key not in found:
                turned = sorted({pair_key(target, query), f"{query}__{target}", f"{target}__{query}"} & found.keys())
                hint = f"found {turned[0]!r}, expected {key!r}" if turned else f"expected {key!r}"
                self.report.add("error", "camera pair missing", place, hint)
            elif not isinstance(found[key], dict):
                self.report.add("error", "a camera pair must be a JSON object of frames", place)
            else:
                self._check_frames(found[key], pairs[query, target], (object_id, target), place)
        for key in sorted(found.keys() - wanted.keys()):
            self.report.add("warning", "camera pair that is not asked for", where, _shown(key))

    def _check_frames(
        self, found: Mapping[str, Any], frames: tuple[int, ...], item: tuple[str, str], where: Place
    ) -> None:
        wanted = {str(frame) for frame in frames}
        for key in sorted(found.keys() - wanted):
            if key.isdecimal() and str(int(key[:9])) in wanted:
                self.report.add("error", "frame key with leading zeros", where, f"found {_shown(key)}")
            else:
                self.report.add("warning", "frame that is not asked for", where, _shown(key))
        object_id, target = item
        truth = self.take.masks[object_id].get(target, {})
        annotated = set(self.take.annotated_frames[object_id].get(target, ()))
        hidden = not any(track for cameras in self.take.masks.values() for track in [cameras.get(target)] if track)
        for frame in frames:
            spot = replace(where, frame=frame)
            if str(frame) not in found:
                self.report.add("error", "frame missing", spot)
                continue
            # The evaluator takes the mask apart in annotated frames, and looks at it where the object is visible.
            decoded = hidden or frame in annotated
            compared = decoded and (hidden or frame in truth)
            self._check_answer(found[str(frame)], target, (_severity(decoded), _severity(compared)), spot)

    def _check_answer(self, answer: Any, target: str, severities: tuple[str, str], where: Place) -> None:
        """`severities` are those of what is no mask at all, and of one that does not fit."""
        missing = [name for name in ("pred_mask", "confidence") if not isinstance(answer, dict) or name not in answer]
        for name in missing:
            self.report.add("error", f"{name} missing", where)
        if missing:
            return
        self._check_confidence(answer["confidence"], where)
        hw = scored_hw(self.take.camera_hw[target])
        severity, misfit = severities
        try:
            rle = Rle.from_json(answer["pred_mask"])
        except MaskError as fault:
            self.report.add(severity, "unusable mask", where, fault.problem)
            return
        if rle.hw != hw:
            detail = f"found {rle.hw[0]}x{rle.hw[1]}, expected {hw[0]}x{hw[1]}"
            self.report.add(misfit, "mask of the wrong size", where, detail)
        else:
            self.masks.append((rle, misfit, where))

    def _check_masks(self) -> None:
        """All of the take's masks that have the right size, by their runs."""
        parse_together([rle for rle, _, _ in self.masks])
        whole: list[tuple[Rle, Place]] = []
        for rle, severity, where in self.masks:
            try:
                rle_to_runs(rle)
                whole.append((rle, where))
            except MaskError as fault:
                self.report.add(severity, "unusable mask", where, fault.problem)
        if whole:
            for index, kind, detail in _doubts([rle for rle, _ in whole]):
                self.report.add("warning", kind, whole[index][1], detail)

    def _check_confidence(self, value: Any, where: Place) -> None:
        name = self.direction.value
        self.report.predictions[name] = self.report.predictions.get(name, 0) + 1
        if not isinstance(value, (int, float)):
            self.report.add("error", "confidence is not a number", where, f"found {_shown(value)}")
        elif isinstance(value, float) and not math.isfinite(value):
            self.report.add("error", "confidence is not finite", where, f"found {value}")
        else:
            if isinstance(value, bool) or not 0 <= value <= 1:
                self.report.add("warning", "confidence is not a number within 0 and 1", where, f"found {_shown(value)}")
            if value == CONFIDENCE_THRESHOLD:
                self.report.add("warning", "confidence is exactly 0.5, which counts as not visible", where)
            self.confidences.append(float(min(max(value, 0), 1)))


def _doubts(rles: Sequence[Rle]) -> Iterator[tuple[int, str, str]]:
    """What is legal in a mask, and hardly meant: the mask's number, the kind, and details."""
    areas, widened = find_parts(rles, STRAY_SHARE)
    for index, (rle, area) in enumerate(zip(rles, areas.tolist(), strict=True)):
        pixels = rle.hw[0] * rle.hw[1]
        if not area:
            yield index, "empty mask, which only loses points", ""
        elif area > LARGE_SHARE * pixels:
            yield index, "mask of more than half the image", f"{area / pixels:.0%}"
        if widened[index]:
            yield index, "small stray parts that widen the mask's box", ""


def _check_confidences(values: list[float], direction: Direction, report: Report) -> None:
    """Whether a direction's confidences can say anything."""
    if not values:
        return
    key = Place(direction.challenge_key)
    share = sum(value > CONFIDENCE_THRESHOLD for value in values) / len(values)
    report.predicted_visible[direction.value] = share
    if len(set(values)) == 1:
        report.add("warning", "the same confidence everywhere: visibility scores 50%", key, f"{values[0]}")
    elif set(values) <= {0.0, 1.0}:
        report.add("warning", "only 0 and 1 as confidences: nothing to calibrate", key)
    if not 0.01 <= share <= 0.99:
        report.add("warning", "more than 99% of the objects predicted alike", key, f"{share:.1%} visible")


def _severity(decisive: bool) -> str:
    return "error" if decisive else "warning"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
