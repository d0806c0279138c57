"""From answers whose truth is known to a map of visibility: candidates, cross-validation by take, choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from scipy.special import expit

from egoexo_xseg.data.logistic import Reliability, best_threshold, fit_weights, log_loss, take_folds
from egoexo_xseg.data.metrics import CONFIDENCE_THRESHOLD, balanced_accuracy
from egoexo_xseg.data.visibility import BOUND, SIGNALS, Term, VisibilityMap

CANDIDATES = {"score alone": ("score",), "all signals": SIGNALS}
"""The simpler stands first: it is taken unless the other does better on takes that it was not fitted on."""

Terms = dict[str, Term]


@dataclass(frozen=True)
class Samples:
    """Answers to a direction's annotated targets, a row each: signals, confidence as predicted, truth and take."""

    names: tuple[str, ...]
    signals: Float64[np.ndarray, "N S"]
    confidence: Float64[np.ndarray, " N"]
    visible: Bool[np.ndarray, " N"]
    takes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.takes)

    @property
    def fault(self) -> str | None:
        """Why nothing can be learnt from them, if so."""
        if not len(self):
            return "no annotated target has a prediction"
        if self.visible.all() or not self.visible.any():
            return f"all {len(self)} annotated targets are {'visible' if self.visible.all() else 'hidden'}"
        return None

    def standardised(self, terms: Terms) -> Float64[np.ndarray, "N T"]:
        columns = [self.signals[:, self.names.index(name)] for name in terms]
        return np.stack([(c - term.mean) / term.scale for c, term in zip(columns, terms.values(), strict=True)], 1)

    def odds(self, terms: Terms) -> Float64[np.ndarray, " N"]:
        """Log odds of being visible, but for the intercept."""
        weights = np.array([term.weight for term in terms.values()])
        return self.standardised(terms) @ weights if terms else np.zeros(len(self))


@dataclass(frozen=True)
class Quality:
    """How good probabilities of visibility are; the latter two with classes of equal weight."""

    balanced_accuracy: float
    log_loss: float
    calibration_error: float

    @classmethod
    def of(cls, confidence: Float64[np.ndarray, " N"], visible: Bool[np.ndarray, " N"]) -> Quality:
        accuracy = balanced_accuracy(visible.tolist(), (confidence > CONFIDENCE_THRESHOLD).tolist())
        return cls(accuracy, log_loss(confidence, visible), Reliability.of(confidence, visible).error)


@dataclass(frozen=True)
class Judged:
    """A direction's map, and each candidate's confidences for takes that it was not fitted on.

    Where `folds` is 0 there were too few takes for that, and the confidences are those of the very takes.
    """

    map: VisibilityMap
    samples: Samples
    chosen: str
    folds: int
    confidences: dict[str, Float64[np.ndarray, " N"]]

    @property
    def basis(self) -> str:
        """What the figures rest on."""
        takes = len(set(self.samples.takes))
        how = f"cross-validated by take in {self.folds} folds" if self.folds else "too few takes to cross-validate"
        return f"{len(self.samples)} targets ({self.samples.visible.sum()} visible) of {takes} takes, {how}"

    @property
    def qualities(self) -> dict[str, Quality]:
        """Of the confidences as predicted, and of each candidate's."""
        named = {"as predicted": self.samples.confidence, **self.confidences}
        return {name: Quality.of(confidence, self.samples.visible) for name, confidence in named.items()}


def judge(samples: Samples, model: str | None, about: dict[str, Any]) -> Judged:
    """Fit each candidate, and choose by balanced accuracy on takes that were left out of the fit.

    `about` is told in the map besides what was found. The samples must have no `fault`.
    """
    folds = take_folds(samples.takes)
    if not all(0 < np.count_nonzero(samples.visible[~held]) < np.count_nonzero(~held) for held in folds):
        folds = []
    confidences = {name: cross_validate(samples, signals, folds) for name, signals in CANDIDATES.items()}
    qualities = {name: Quality.of(confidence, samples.visible) for name, confidence in confidences.items()}
    chosen = max(qualities, key=lambda name: qualities[name].balanced_accuracy)
    if not folds:  # nothing shows that more helps
        chosen = next(iter(CANDIDATES))
    terms, intercept = fit(samples, CANDIDATES[chosen], np.ones(len(samples), bool))
    fitted = {
        **about,
        "takes": len(set(samples.takes)),
        "targets": len(samples),
        "visible": int(samples.visible.sum()),
        "chosen": chosen,
        "folds": len(folds),
        "before": _rounded(Quality.of(samples.confidence, samples.visible)),
        "after": _rounded(qualities[chosen]),
    }
    return Judged(VisibilityMap(model, intercept, terms, fitted), samples, chosen, len(folds), confidences)


def cross_validate(
    samples: Samples, signals: Sequence[str], folds: Sequence[Bool[np.ndarray, " N"]]
) -> Float64[np.ndarray, " N"]:
    """Every sample's confidence by a fit without its fold; without folds, by the fit to all."""
    confidence = np.zeros(len(samples))
    everything = np.ones(len(samples), bool)
    for learnt, judged in [(~held, held) for held in folds] or [(everything, everything)]:
        terms, intercept = fit(samples, signals, learnt)
        confidence[judged] = expit(samples.odds(terms)[judged] + intercept)
    return confidence


def fit(samples: Samples, signals: Sequence[str], rows: Bool[np.ndarray, " N"]) -> tuple[Terms, float]:
    """Terms and intercept from some of the samples; signals that never change say nothing and get no term.

    A higher score never makes an object less likely visible.
    """
    terms = {}
    for name, column in zip(samples.names, samples.signals[rows].T, strict=True):
        if name in signals and column.std() > 1 / BOUND:
            terms[name] = Term(_round(column.mean()), _round(column.std()), 0.0)
    if not terms:
        return {}, 0.0
    rising = np.array([name == "score" for name in terms])
    weights = fit_weights(samples.standardised(terms)[rows], samples.visible[rows], rising)
    terms = {name: Term(t.mean, t.scale, _round(w)) for (name, t), w in zip(terms.items(), weights, strict=True)}
    return terms, _round(-best_threshold(samples.odds(terms)[rows], samples.visible[rows]))


def _round(value: float) -> float:
    """Six digits: readable, and the same in whatever order a processor takes sums."""
    return float(f"{value:.6g}")


def _rounded(quality: Quality) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(quality).items()}
