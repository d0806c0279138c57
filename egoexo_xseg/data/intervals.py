"""How far a score is to be trusted: the bootstrap over takes, since the frames of a take resemble each other."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

RESAMPLES = 1000


def total_and_draws(sums: Float[np.ndarray, "T C"]) -> Float[np.ndarray, "R C"]:
    """First the total over all takes, then totals over as many takes drawn with replacement, `RESAMPLES` times.

    Seeded, so that two tables of the same takes are drawn alike: what follows from both is paired.
    """
    drawn = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    return np.concatenate([sums.sum(0, keepdims=True), sums[drawn].sum(1)])


def interval(scores: Float[np.ndarray, " R"]) -> tuple[float, float, float]:
    """The score of the total, and the bounds that hold 95% of those of the draws; NaN where there is none.

    A draw without any object of a kind tells nothing of it.
    """
    drawn = scores[1:][np.isfinite(scores[1:])]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    return float(scores[0]), float(low), float(high)
