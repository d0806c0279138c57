"""How a model is trained, in one readable file that is saved beside every checkpoint."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from egoexo_xseg.errors import XsegError

STAGES = ("1", "2", "all")
DIRECTIONS = ("ego2exo", "exo2ego", "both")
ALIGNMENTS = ("none", "released", "contrast", "both")


@dataclass(frozen=True)
class TrainConfig:
    """The paper's recipe; what it leaves open, or gets wrong, is said beside the value."""

    stage: str = "2"  # 1: the fusion alone; 2: all but the image tower; all: from scratch
    direction: str = "both"  # the paper trains a model per direction, or both jointly
    epochs: float = 4.0
    steps: int | None = None  # instead of epochs; drawn scenes never end, so they need it
    share: float | None = None  # of the records, chosen by the seed; 1/20 in stage 1, all otherwise
    batch_size: int = 12  # records per process and step
    accumulate: int = 1  # batches per step
    lr: float = 6e-5
    final_lr: float = 0.0  # share of lr that the cosine ends at
    warmup: float = 0.03  # share of the steps
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0  # on matrices only
    clip: float = 1.0  # of the gradient's norm
    seed: int = 0
    fusion: str | None = None  # released or per_object; otherwise the model's own
    region_levels: tuple[int, ...] | None = (
        None  # Swin maps that add to an object's features; otherwise the model's own
    )
    num_points: int = 12544  # where masks are compared: 112 x 112, as in Mask2Former
    matching: str = "cost"  # how proposals get their objects; "order" (i-th to i-th) learns far faster from scratch
    alignment: str = "released"  # how an object's two views are drawn together, except in stage 1
    alignment_weight: float = 1.0
    temperature: float = 0.1  # of the contrastive alignment
    negatives: bool = True  # hidden targets take part, so that visibility is learnt; the released code leaves them out
    caption_share: float = 0.8  # of the records; the others learn to do without
    caption_noise: float = 0.0  # share of captions that are taken away, and of those that become another object's
    augment: bool = True  # both views mirrored, each tinted; the released code does neither
    reference_behaviour: bool = False  # frozen parts stay in training mode (drop path, running statistics), as released
    keep_every: int = 500  # steps between checkpoints
    keep_last: int = 2  # checkpoints that stay besides the newest

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        if self.region_levels is not None:
            object.__setattr__(self, "region_levels", tuple(self.region_levels))
        self._check("stage", self.stage in STAGES, f"one of {', '.join(STAGES)}")
        self._check("direction", self.direction in DIRECTIONS, f"one of {', '.join(DIRECTIONS)}")
        self._check("alignment", self.alignment in ALIGNMENTS, f"one of {', '.join(ALIGNMENTS)}")
        for name in ("batch_size", "accumulate", "num_points", "keep_every", "keep_last"):
            self._check(name, type(getattr(self, name)) is int and getattr(self, name) > 0, "a whole number above 0")
        self._check("steps", self.steps is None or (type(self.steps) is int and self.steps > 0), "a number above 0")
        self._check("seed", type(self.seed) is int and self.seed >= 0, "a whole number from 0")
        for name in ("lr", "clip", "epochs", "temperature"):
            self._check(name, _is_number(getattr(self, name)) and getattr(self, name) > 0, "a number above 0")
        for name in ("final_lr", "warmup", "caption_share", "caption_noise"):
            self._check(name, _is_number(getattr(self, name)) and 0 <= getattr(self, name) <= 1, "within 0 and 1")
        for name in ("weight_decay", "alignment_weight"):
            self._check(name, _is_number(getattr(self, name)) and getattr(self, name) >= 0, "a number from 0")
        for name in ("negatives", "augment", "reference_behaviour"):
            self._check(name, isinstance(getattr(self, name), bool), "true or false")
        self._check("share", self.share is None or (_is_number(self.share) and 0 < self.share <= 1), "within 0 and 1")
        self._check("matching", self.matching in ("cost", "order"), "cost or order")
        self._check("fusion", self.fusion in (None, "released", "per_object"), "released or per_object")
        levels = self.region_levels or ()
        self._check("region_levels", all(type(x) is int and 0 <= x < 4 for x in levels), "numbers from 0 to 3")
        self._check("betas", len(self.betas) == 2 and all(map(_is_number, self.betas)), "two numbers")

    def _check(self, name: str, fine: bool, wanted: str) -> None:
        if not fine:
            raise XsegError(f"{name} must be {wanted}, found {getattr(self, name)!r}", where="training configuration")

    @property
    def model_changes(self) -> dict[str, Any]:
        """Settings of the model that the training changes."""
        changes = {"fusion": self.fusion, "region_levels": self.region_levels}
        return {name: value for name, value in changes.items() if value is not None}

    @property
    def record_share(self) -> float:
        return self.share or (1 / 20 if self.stage == "1" else 1.0)

    def learning_rate(self, step: int, steps: int) -> float:
        """Linear warm-up to `lr`, then a cosine down to `final_lr` of it."""
        warm = max(1, round(self.warmup * steps))
        if step < warm:
            return self.lr * (step + 1) / warm
        done = (step - warm) / max(1, steps - warm)
        return self.lr * (self.final_lr + (1 - self.final_lr) * (1 + math.cos(math.pi * done)) / 2)

    def to_json(self) -> dict[str, Any]:
        """As it is read back: plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def read(cls, path: Path | None = None, **changes: Any) -> TrainConfig:
        """The defaults, changed by a JSON file, changed by what is given here and not None."""
        values: Any = {}
        if path is not None:
            try:
                values = json.loads(path.read_bytes())
            except (OSError, ValueError, RecursionError):
                raise XsegError("not readable as JSON", where=path) from None
        if not isinstance(values, dict):
            raise XsegError("a training configuration must be a JSON object", where=path)
        known = {entry.name for entry in fields(cls)}
        for name in values.keys() - known:
            raise XsegError(f"no setting {name!r}", where=path, remedy=f"There are: {', '.join(sorted(known))}")
        for name in ("betas", "region_levels"):
            if not isinstance(values.get(name) or [], list):
                raise XsegError(f"{name} must be a list of numbers, found {values[name]!r}", where=path)
        return replace(cls(**values), **{name: value for name, value in changes.items() if value is not None})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
