"""How likely it is that an object is visible, judged by its answer: signals, and the map that a checkpoint carries."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from egoexo_xseg.data.sources import read_json
from egoexo_xseg.errors import CheckpointError, PredictionError
from egoexo_xseg.masks import Rle, rle_to_runs
from egoexo_xseg.records import Direction, Prediction

FILE_NAME = "calibration.json"
"""Within a checkpoint's folder."""

SIGNALS = ("score", "margin", "likeness", "mask_area", "mask_cut", "query_area", "query_cut")

LEAST, MOST = 1e-4, 1 - 1e-4
"""Scores beyond are as good as these: their log odds must not outweigh everything else."""

MAX_CUT = 2.0
"""A square object that just touches the border has 1, cut in half 1.4; a sliver has no bound."""

BOUND = 1e6
"""Of the numbers in a calibration, whose signals are a few units wide."""


def measure(prediction: Prediction, query_mask: Rle) -> dict[str, float]:
    """The signals of one answer, each on a scale on which log odds are nearly linear.

    `score`: log odds of the raw score. `margin`: its lead over the next proposal. `likeness`: of object and answer.
    Both are missing if the method tells none.
    `*_area`: logarithm of the mask's share of its image. `*_cut`: length along the image's border over the root of
    the area, so 0 for a mask that touches none. Raises a MaskError for a mask that cannot be read.
    """
    score = min(max(prediction.score, LEAST), MOST)
    signals = {"score": math.log(score / (1 - score))}
    for name in ("margin", "likeness"):
        if (value := getattr(prediction, name)) is not None:
            signals[name] = value
    for name, mask in (("mask", prediction.mask), ("query", query_mask)):
        signals[f"{name}_area"], signals[f"{name}_cut"] = _extent(mask)
    return signals


@lru_cache(maxsize=1024)  # a query mask is asked about in every target camera
def _extent(rle: Rle) -> tuple[float, float]:
    """Logarithm of the share of the image (of half a pixel, if the mask is empty), and how much the border cuts."""
    runs = rle_to_runs(rle)
    height, width = rle.hw
    ends = np.cumsum(runs)
    starts, stops = ends[0:-1:2], ends[1::2]
    area = int(runs[1::2].sum())
    top = -(-stops // height) + (-starts // height)  # multiples of the height within each run
    bottom = stops // height - starts // height
    left = np.minimum(stops, height) - np.minimum(starts, height)
    last = height * (width - 1)
    right = np.maximum(stops, last) - np.maximum(starts, last)
    border = int((top + bottom + left + right).sum())
    share = max(area, 0.5) / (height * width)
    return math.log(share), min(border / math.sqrt(max(area, 1)), MAX_CUT)


@dataclass(frozen=True)
class Term:
    """A signal's part in the log odds: weight x (signal - mean) / scale."""

    mean: float
    scale: float
    weight: float


@dataclass(frozen=True)
class VisibilityMap:
    """Log odds of visibility as a sum of signals, 0 where balanced accuracy is best; for one model and direction.

    `model` is the hash of the checkpoint whose answers it was fitted on, None for those of an unknown method.
    `fitted` tells people what it was fitted on and how well, and decides nothing.
    """

    model: str | None
    intercept: float
    terms: Mapping[str, Term]
    fitted: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, prediction: Prediction, query_mask: Rle) -> Prediction:
        """The same answer, its visibility judged anew; all else stays as it is."""
        signals = measure(prediction, query_mask)
        missing = [name for name in self.terms if name not in signals]
        if missing:
            raise PredictionError(f"no {missing[0]} in this prediction, which the calibration goes by")
        return replace(prediction, visibility=self.probability(signals))

    def probability(self, signals: Mapping[str, float]) -> float:
        """Of visibility, if visible and hidden objects were equally frequent."""
        parts = (term.weight * (signals[name] - term.mean) / term.scale for name, term in self.terms.items())
        odds = math.fsum([self.intercept, *parts])
        return 1 / (1 + math.exp(-min(max(odds, -50.0), 50.0)))

    @property
    def digest(self) -> str:
        """SHA-256 of what decides an answer."""
        decisive = {name: value for name, value in self.to_json().items() if name != "fitted"}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        terms = {name: asdict(term) for name, term in self.terms.items()}
        return {"model": self.model, "intercept": self.intercept, "signals": terms, "fitted": dict(self.fitted)}

    @classmethod
    def from_json(cls, value: object) -> VisibilityMap:
        """Raises a ValueError that says what is wrong."""
        if not isinstance(value, dict) or "model" not in value or not isinstance(value.get("signals"), dict):
            raise ValueError("a direction needs model, intercept and signals")
        if not isinstance(value.get("model"), str | None):
            raise ValueError("model must be a checkpoint's hash or null")
        unknown = sorted(set(value["signals"]) - set(SIGNALS))
        if unknown:
            raise ValueError(f"no signal {unknown[0]!r}; there are: {', '.join(SIGNALS)}")
        terms = {}
        for name, entry in value["signals"].items():
            mean, scale, weight = (_number(entry, part, name) for part in ("mean", "scale", "weight"))
            if scale < 1 / BOUND:
                raise ValueError(f"{name}'s scale must be at least {1 / BOUND:g}, found {scale!r}")
            terms[name] = Term(mean, scale, weight)
        fitted = value.get("fitted")
        return cls(value["model"], _number(value, "intercept"), terms, fitted if isinstance(fitted, dict) else {})


def _number(entry: object, name: str, owner: str = "") -> float:
    value = entry.get(name) if isinstance(entry, dict) else None
    whole = f"{owner}'s {name}" if owner else name
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= BOUND:
        raise ValueError(f"{whole} must be a number within {-BOUND:g} and {BOUND:g}, found {value!r}")
    return float(value)


Calibration = dict[Direction, VisibilityMap]


def read_calibration(path: Path) -> Calibration:
    """A file's maps by direction; a CheckpointError names what is wrong with it."""
    try:
        values = read_json(path, CheckpointError)
        return {
            direction: VisibilityMap.from_json(values[direction.value])
            for direction in Direction
            if direction.value in values
        }
    except ValueError as fault:
        raise CheckpointError(f"not a calibration: {fault}", where=path) from None


def checkpoint_map(folder: Path, model: str, direction: Direction) -> VisibilityMap | None:
    """The map that a checkpoint folder holds for a direction, if any; refused if it was fitted for another checkpoint.

    `model` is the hash of the folder's checkpoint.
    """
    path = folder / FILE_NAME
    found = read_calibration(path).get(direction) if path.is_file() else None
    if found is not None and found.model != model:
        problem = f"{direction.value} was calibrated for another checkpoint than this one"
        raise CheckpointError(problem, where=path, remedy="Run xseg calibrate again, or delete the file")
    return found
