"""How a model is trained, in one readable file that is saved beside every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from egoexo_xseg.errors import XsegError
from egoexo_xseg.files import load_json

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
    image_size: int | None = None  # side of the square that images are fitted into; otherwise the model's own
    fusion: str | None = None  # released or per_object; otherwise the model's own
    object_proposals: bool | None = None  # each object's condition proposes a mask too; otherwise the model's own
    region_levels: tuple[int, ...] | None = None  # Swin maps that add to an object's features; or the model's own
    num_points: int | None = 12544  # where masks are compared: 112 x 112, as in Mask2Former; None: on all cells
    alignment: str = "released"  # how an object's two views are drawn together, except in stage 1
    alignment_weight: float = 1.0
    temperature: float = 0.1  # of the contrastive alignment
    negatives: bool = True  # hidden targets take part, so that visibility is learnt; the released code leaves them out
    caption_share: float = 0.8  # of the records; the others learn to do without
    caption_noise: float = 0.0  # share of captions that are taken away, and of those that become another object's
    augment: bool = True  # both views mirrored, each tinted; the released code does neither
    crop: float = 1.0  # least share of its height and width to which half of the views are cut; 1: all are whole
    reference_behaviour: bool = False  # frozen parts stay in training mode (drop path, running statistics), as released
    keep_every: int = 500  # steps between checkpoints
    keep_last: int = 2  # states that stay, the newest one included
    validate_every: int = 2000  # steps between validations, where there is a split for them

    def __post_init__(self) -> None:
        check_settings(asdict(self), where="training configuration")

    @property
    def model_changes(self) -> dict[str, Any]:
        """Settings of the model that the training changes."""
        names = ("image_size", "fusion", "object_proposals", "region_levels")
        changes = {name: getattr(self, name) for name in names}
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
            values = load_json(path, XsegError)
        if not isinstance(values, dict):
            raise XsegError("a training configuration must be a JSON object", where=path)
        values |= {name: value for name, value in changes.items() if value is not None}
        check_settings(values, where=path or "training configuration")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def check_settings(values: dict[str, Any], where: object) -> None:
    """Refuse the first setting that does not exist or cannot have its value."""
    for name, value in values.items():
        if name not in RULES:
            raise XsegError(f"no setting {name!r}", where=where, remedy=f"There are: {', '.join(sorted(RULES))}")
        fine, wanted = RULES[name]
        if not fine(value):
            raise XsegError(f"{name} must be {wanted}, found {value!r}", where=where)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and _is_number(value)


def _is_list(value: object, fine: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and all(map(fine, value))


LARGEST = 1e12
"""Of any setting: far from where numbers overflow."""

Rule = tuple[Callable[[Any], bool], str]
COUNT: Rule = (lambda value: _is_whole(value) and value > 0, "a whole number above 0")
POSITIVE: Rule = (lambda value: _is_number(value) and value > 0, "a number above 0")
NOT_NEGATIVE: Rule = (lambda value: _is_number(value) and value >= 0, "a number from 0")
SHARE: Rule = (lambda value: _is_number(value) and 0 <= value <= 1, "a number within 0 and 1")
FLAG: Rule = (lambda value: isinstance(value, bool), "true or false")

RULES: dict[str, Rule] = {
    "stage": (lambda value: value in STAGES, f"one of {', '.join(STAGES)}"),
    "direction": (lambda value: value in DIRECTIONS, f"one of {', '.join(DIRECTIONS)}"),
    "epochs": POSITIVE,
    "steps": (lambda value: value is None or COUNT[0](value), COUNT[1]),
    "share": (lambda value: value is None or (SHARE[0](value) and value > 0), "a number above 0 and up to 1"),
    "batch_size": COUNT,
    "accumulate": COUNT,
    "lr": POSITIVE,
    "final_lr": SHARE,
    "warmup": SHARE,
    "betas": (
        lambda value: _is_list(value, lambda beta: SHARE[0](beta) and beta < 1) and len(value) == 2,
        "two numbers from 0 to below 1",
    ),
    "weight_decay": NOT_NEGATIVE,
    "clip": POSITIVE,
    "seed": (lambda value: _is_whole(value) and value >= 0, "a whole number from 0"),
    "image_size": (lambda value: value is None or (COUNT[0](value) and value <= 4096), "a whole number up to 4096"),
    "fusion": (lambda value: value in (None, "released", "per_object"), "released or per_object"),
    "object_proposals": (lambda value: value is None or isinstance(value, bool), "true or false"),
    "region_levels": (
        lambda value: value is None or _is_list(value, lambda level: _is_whole(level) and 0 <= level < 4),
        "a list of numbers from 0 to 3",
    ),
    "num_points": (lambda value: value is None or COUNT[0](value), "a whole number above 0, or null"),
    "alignment": (lambda value: value in ALIGNMENTS, f"one of {', '.join(ALIGNMENTS)}"),
    "alignment_weight": NOT_NEGATIVE,
    "temperature": POSITIVE,
    "negatives": FLAG,
    "caption_share": SHARE,
    "caption_noise": (lambda value: SHARE[0](value) and value <= 0.5, "a number within 0 and 0.5"),
    "augment": FLAG,
    "crop": (lambda value: SHARE[0](value) and value >= 0.25, "a number within 0.25 and 1"),
    "reference_behaviour": FLAG,
    "keep_every": COUNT,
    "keep_last": COUNT,
    "validate_every": COUNT,
}
