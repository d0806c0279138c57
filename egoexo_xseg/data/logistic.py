"""Two classes of equal worth, however many of each: logistic regression, the best threshold, true probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.optimize import minimize
from scipy.special import expit

NUM_BINS = 10

TOLERANCE = 0.5
"""Standard errors of the best balanced accuracy within which thresholds count as equally good."""

LEAST = 1e-6
"""Probabilities beyond are taken as this, or one wrong certainty would make a mean loss infinite."""


def class_shares(visible: Bool[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """A weight for each sample, such that each of the two classes has one half."""
    seen = int(visible.sum())
    return np.where(visible, 0.5 / max(seen, 1), 0.5 / max(len(visible) - seen, 1))


def fit_weights(
    values: Float64[np.ndarray, "N S"], visible: Bool[np.ndarray, " N"], rising: Bool[np.ndarray, " S"]
) -> Float64[np.ndarray, " S"]:
    """Weights of standardised signals in the log odds of being visible; those of `rising` ones are not negative.

    Classes weigh the same. The rarer one counts each of its samples once against a unit Gaussian prior on every weight,
    which keeps them finite where the classes can be separated. The offset is left to `best_threshold`.
    """
    shares, prior = class_shares(visible), 0.5 / min(np.count_nonzero(visible), np.count_nonzero(~visible))

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        offset, weights = point[0], point[1:]
        odds = values @ weights + offset
        pull = shares * (expit(odds) - visible)
        total = shares @ (np.logaddexp(0, odds) - visible * odds) + prior / 2 * weights @ weights
        return float(total), np.concatenate(([pull.sum()], values.T @ pull + prior * weights))

    bounds = [(None, None), *((0.0 if up else None, None) for up in rising)]
    start = np.zeros(values.shape[1] + 1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"gtol": 1e-9, "ftol": 1e-14})
    return found.x[1:]


def best_threshold(odds: Float64[np.ndarray, " N"], visible: Bool[np.ndarray, " N"]) -> float:
    """Where to cut so that balanced accuracy is best.

    The very best cut of a sample is a matter of luck: of all that come within half a standard error, the one in their
    middle is taken.
    """
    order = np.argsort(odds, kind="stable")
    odds, shares = odds[order], 2 * class_shares(visible)[order]
    visible = visible[order]
    # Cut k says: the first k are hidden. Between equal odds there is none.
    hidden_right = np.concatenate(([0.0], np.cumsum(shares * ~visible)))
    seen_right = 1 - np.concatenate(([0.0], np.cumsum(shares * visible)))
    cuts = np.concatenate(([odds[0] - 1], (odds[1:] + odds[:-1]) / 2, [odds[-1] + 1]))
    possible = np.concatenate(([True], odds[1:] > odds[:-1], [True]))
    accuracy = np.where(possible, (hidden_right + seen_right) / 2, -1.0)
    best = int(accuracy.argmax())
    rates = np.clip([seen_right[best], hidden_right[best]], 0, 1)
    counts = np.maximum([np.count_nonzero(visible), np.count_nonzero(~visible)], 1)
    error = np.sqrt((rates * (1 - rates) / counts).sum()) / 2
    good = cuts[accuracy >= accuracy[best] - TOLERANCE * error - 1e-12]
    return float(good[np.abs(good - (good[0] + good[-1]) / 2).argmin()])


@dataclass(frozen=True)
class Reliability:
    """Probabilities in equal bins of [0, 1]: what they claim and what was seen, with classes of equal weight.

    `predicted` is the mean probability in a bin, `observed` the share that was visible (both 0 in an empty one),
    `hidden` and `visible` are the numbers of samples.
    """

    predicted: Float64[np.ndarray, " B"]
    observed: Float64[np.ndarray, " B"]
    hidden: Int64[np.ndarray, " B"]
    visible: Int64[np.ndarray, " B"]

    @classmethod
    def of(cls, probabilities: Float64[np.ndarray, " N"], visible: Bool[np.ndarray, " N"]) -> Reliability:
        place = np.minimum((probabilities * NUM_BINS).astype(np.int64), NUM_BINS - 1)
        shares = class_shares(visible)
        total, claimed, seen = (
            np.bincount(place, weights, NUM_BINS) for weights in (shares, shares * probabilities, shares * visible)
        )
        hidden, shown = (np.bincount(place[kind], minlength=NUM_BINS) for kind in (~visible, visible))
        filled = np.where(total > 0, total, 1.0)
        return cls(claimed / filled, seen / filled, hidden, shown)

    @property
    def error(self) -> float:
        """Expected calibration error: how far, on average, claims are from what was seen."""
        shares = 0.5 * (self.hidden / max(self.hidden.sum(), 1) + self.visible / max(self.visible.sum(), 1))
        return float(shares @ np.abs(self.predicted - self.observed))


def log_loss(probabilities: Float64[np.ndarray, " N"], visible: Bool[np.ndarray, " N"]) -> float:
    """Mean surprise at the truth, in nats, with classes of equal weight; 0.693 for a coin."""
    right = np.where(visible, probabilities, 1 - probabilities)
    return float(class_shares(visible) @ -np.log(np.maximum(right, LEAST)))


def take_folds(takes: Sequence[str], most: int = 10) -> list[Bool[np.ndarray, " N"]]:
    """Which samples each fold leaves out: whole takes, each once, since the frames of a take resemble each other."""
    names, place = np.unique(np.asarray(takes), return_inverse=True)
    count = min(most, len(names))
    return [place % count == fold for fold in range(count)]
