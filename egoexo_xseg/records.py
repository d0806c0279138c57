"""The words everybody uses: directions, pairs, predictions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum

from egoexo_xseg.errors import MaskError, PredictionError
from egoexo_xseg.masks import Rle, rle_to_runs


class Direction(str, Enum):
    """Which way to look: from the query view to the target view."""

    EGO_EXO = "ego2exo"
    EXO_EGO = "exo2ego"

    @property
    def challenge_key(self) -> str:
        """The spelling inside the challenge's JSON."""
        return self.value.replace("2", "-")

    @property
    def query_is_ego(self) -> bool:
        return self is Direction.EGO_EXO


def is_ego(camera: str) -> bool:
    """The benchmark's own rule, to the letter: Aria glasses are worn, everything else stands."""
    return "aria" in camera


@dataclass(frozen=True, slots=True)
class PairObject:
    """One query object of a pair; `object_id` is a name and must never reach the model.

    `target_mask` is None where the object is not visible or nobody looked; `annotated` tells the two apart
    (only annotated frames are scored).
    """

    object_id: str
    query_mask: Rle
    target_mask: Rle | None = None
    annotated: bool = False
    caption: str | None = None

    @property
    def visible(self) -> bool:
        return self.target_mask is not None


@dataclass(frozen=True, slots=True)
class Pair:
    """All objects of one query camera, target camera and frame; `target_hw` is the target video's original size."""

    take_uid: str
    query_camera: str
    target_camera: str
    frame: int
    target_hw: tuple[int, int]
    objects: tuple[PairObject, ...]

    def __str__(self) -> str:
        return f"take {self.take_uid}, {self.query_camera} to {self.target_camera}, frame {self.frame}"

    @property
    def direction(self) -> Direction:
        return Direction.EGO_EXO if is_ego(self.query_camera) else Direction.EXO_EGO


@dataclass(frozen=True, slots=True)
class Prediction:
    """One object's answer in one target frame.

    `mask` has the scorer's size; `visibility` is a probability in [0, 1] (JSON `confidence`); `score` is the chosen
    proposal's raw score, `margin` its lead over the next best (None if the method has no proposals) and `likeness` how
    alike object and answer look (None if the method does not tell), all in [0, 1], from which visibility is calibrated.
    """

    take_uid: str
    object_id: str
    query_camera: str
    target_camera: str
    frame: int
    mask: Rle
    visibility: float
    score: float
    margin: float | None = None
    likeness: float | None = None

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        return self.take_uid, self.object_id, self.query_camera, self.target_camera, self.frame

    def to_line(self) -> str:
        """One line of JSON: the predictions file's format (docs/formats.md)."""
        row = {
            "take_uid": self.take_uid,
            "object_id": self.object_id,
            "query_camera": self.query_camera,
            "target_camera": self.target_camera,
            "frame": self.frame,
            "pred_mask": self.mask.to_json(),
            "confidence": self.visibility,
            "score": self.score,
        }
        for name in ("margin", "likeness"):
            if (value := getattr(self, name)) is not None:
                row[name] = value
        return json.dumps(row, allow_nan=False)

    @classmethod
    def from_line(cls, line: str) -> Prediction:
        """Read a line back; another method's may lack margin, likeness, and score, which is its confidence then."""
        prediction = cls.unchecked(line)
        prediction.check_mask()
        return prediction

    def check_mask(self) -> None:
        try:
            rle_to_runs(self.mask)
        except MaskError as fault:
            raise PredictionError(fault.problem, where=f"object {self.object_id!r}, frame {self.frame}") from None

    @classmethod
    def unchecked(cls, line: str) -> Prediction:
        """`from_line` for many lines, whose masks are checked together afterwards."""
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise PredictionError("a prediction must be one JSON object a line") from None
        if not isinstance(row, dict):
            raise PredictionError("a prediction must be one JSON object a line")
        names = [row.get(key) for key in ("take_uid", "object_id", "query_camera", "target_camera")]
        if not all(isinstance(name, str) for name in names) or type(row.get("frame")) is not int:
            raise PredictionError("a prediction needs take_uid, object_id, query_camera, target_camera and frame")
        try:
            mask = Rle.from_json(row.get("pred_mask"))
        except MaskError as fault:
            raise PredictionError(fault.problem, where=f"object {names[1]!r}, frame {row['frame']}") from None
        visibility = _probability(row, "confidence")
        return cls(
            *names,
            frame=row["frame"],
            mask=mask,
            visibility=visibility,
            score=_probability(row, "score", visibility),
            **{name: _probability(row, name) for name in ("margin", "likeness") if name in row},
        )


def _probability(row: dict[str, object], key: str, default: float | None = None) -> float:
    value = row.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise PredictionError(f"{key} must be a number within 0 and 1, found {value!r}")
    return float(value)
