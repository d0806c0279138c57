"""How a model is trained, in one readable file that is saved beside every checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from egoexo_xseg.errors import XsegError


@dataclass(frozen=True)
class TrainConfig:
    """The recipe for small models trained from scratch on the sample world."""

    steps: int = 20_000
    batch_size: int = 4  # pairs of views per process; both directions of a pair are records
    lr: float = 1e-3
    final_lr: float = 0.03  # share of lr that the cosine ends at
    warmup: int = 100  # steps
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.02  # on matrices only
    clip: float = 1.0  # of the gradient's norm
    seed: int = 0
    num_points: int = 6400  # where masks are compared
    caption_share: float = 0.4  # of the records; the others learn to do without
    caption_noise: float = 0.08  # of the captions are missing, and as many are another object's
    contrast_weight: float = 1.0  # same object in both views against all others of the batch
    contrast_temperature: float = 0.1
    keep_every: int = 250  # steps between checkpoints

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        for name in ("steps", "batch_size", "num_points", "keep_every"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise XsegError(
                    f"{name} must be a whole number above 0, found {value!r}", where="training configuration"
                )
        if not 0 < self.lr < 1 or not 0 <= self.caption_share <= 1:
            raise XsegError("lr and caption_share must be within 0 and 1", where="training configuration")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, path: Path | None, **changes: Any) -> TrainConfig:
        """The defaults, changed by a JSON file, changed by what is given here and not None."""
        values: dict[str, Any] = {}
        if path is not None:
            try:
                values = json.loads(path.read_bytes())
            except (OSError, ValueError):
                raise XsegError("not readable as JSON", where=path) from None
        known = {entry.name for entry in fields(cls)}
        unknown = sorted(set(values) - known) if isinstance(values, dict) else ["(not a JSON object)"]
        if unknown:
            raise XsegError(f"no setting {unknown[0]!r}", where=path, remedy=f"There are: {', '.join(sorted(known))}")
        return replace(cls(**values), **{name: value for name, value in changes.items() if value is not None})
