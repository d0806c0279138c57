"""Thresholds, weights and reliability with known answers, whatever the numbers of the two classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egoexo_xseg.data.logistic import Reliability, best_threshold, fit_weights, log_loss, take_folds

F, T = False, True


def accuracy(odds, visible, cut):
    return (np.mean(odds[visible] > cut) + np.mean(odds[~visible] <= cut)) / 2


@pytest.mark.parametrize(
    ("odds", "visible", "cuts"),
    [
        ([0, 1, 2, 5, 6], [F, F, F, T, T], {3.5}),  # between the classes
        ([6, 5, 2, 1, 0], [T, T, F, F, F], {3.5}),  # in any order
        ([0, 4, 4, 9, 9, 9, 9], [F, F, F, F, T, T, T], {6.5}),  # never between equal odds
        ([7, 7, 7, 7], [F, T, F, T], {6.0, 8.0}),  # all alike: all one kind or all the other
        ([0, 1, 2, 3], [T, T, T, T], {-1.0}),
    ],
)
def test_threshold_by_hand(odds, visible, cuts):
    assert best_threshold(np.array(odds, float), np.array(visible)) in cuts


def gaussians(seed: int, hidden: int, visible: int) -> tuple[np.ndarray, np.ndarray]:
    """Two of unit width, at -1 and 1: the best cut is 0 and the log odds rise by 2 a unit, whatever their numbers."""
    rng = np.random.default_rng(seed)
    truth = np.repeat([F, T], [hidden, visible])
    return np.where(truth, 1.0, -1.0) + rng.normal(size=len(truth)), truth


@pytest.mark.parametrize(("hidden", "visible"), [(2000, 2000), (400, 3600), (3600, 400)])
def test_classes_weigh_the_same_whatever_their_numbers(hidden, visible):
    values, truth = gaussians(0, hidden, visible)
    assert abs(best_threshold(values, truth)) < 0.25
    assert fit_weights(values[:, None], truth, np.array([T]))[0] == pytest.approx(2, abs=0.2)


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30))
def test_threshold_is_within_half_a_standard_error_of_the_best(seed, hidden, visible):
    odds, truth = gaussians(seed, hidden, visible)
    odds = odds.round(1)
    rates = [(np.mean(odds[truth] > cut), np.mean(odds[~truth] <= cut)) for cut in [odds.min() - 1, *odds]]
    best = max(map(sum, rates)) / 2
    # Of cuts that are equally good, the one with the widest error gives the most room.
    errors = [seen * (1 - seen) / visible + right * (1 - right) / hidden for seen, right in rates
              if math.isclose((seen + right) / 2, best)]  # fmt: skip
    assert accuracy(odds, truth, best_threshold(odds, truth)) >= best - math.sqrt(max(errors)) / 4 - 1e-9


def test_threshold_of_a_step_is_the_step():
    rng = np.random.default_rng(1)
    score = rng.random(3000)
    visible = (score > 0.7) ^ (rng.random(3000) < 0.1)
    assert best_threshold(score, visible) == pytest.approx(0.7, abs=0.02)


def test_weights_are_finite_where_the_classes_are_apart():
    values = np.array([[-1.0], [-1.0], [1.0], [1.0]])
    (weight,) = fit_weights(values, np.array([F, F, T, T]), np.array([F]))
    assert 0.5 < weight < 2


def test_weights_tell_signal_from_noise():
    values, truth = gaussians(2, 300, 2700)
    noise = np.random.default_rng(3).normal(size=len(values))
    weights = fit_weights(np.stack([noise, values], 1), truth, np.array([F, F]))
    assert abs(weights[0]) < 0.2 < 1.7 < weights[1]
    assert fit_weights(np.stack([values, values], 1), truth, np.array([F, F])) == pytest.approx([1, 1], abs=0.1)


def test_a_rising_signal_never_counts_against():
    values, truth = gaussians(4, 200, 200)
    assert fit_weights(-values[:, None], truth, np.array([F]))[0] < -1.5
    assert fit_weights(-values[:, None], truth, np.array([T]))[0] == 0


def test_reliability_by_hand():
    probabilities = np.array([0.05, 0.05, 0.15, 0.95, 1.0])
    bins = Reliability.of(probabilities, np.array([F, T, F, T, T]))
    assert bins.hidden.tolist() == [1, 1] + [0] * 8 and bins.visible.tolist() == [1] + [0] * 8 + [2]
    # A hidden sample weighs 1/4, a visible one 1/6.
    assert bins.observed[[0, 1, 5, 9]] == pytest.approx([0.4, 0, 0, 1])
    assert bins.predicted[[0, 1, 5, 9]] == pytest.approx([0.05, 0.15, 0, 0.975])
    assert bins.error == pytest.approx(5 / 12 * 0.35 + 1 / 4 * 0.15 + 1 / 3 * 0.025)


def test_true_probabilities_have_no_calibration_error():
    values, truth = gaussians(5, 20_000, 20_000)
    assert Reliability.of(1 / (1 + np.exp(-2 * values)), truth).error < 0.01
    assert Reliability.of(1 / (1 + np.exp(-2 * values - 1)), truth).error > 0.05


def test_log_loss():
    truth = np.array([F, T, T, T])
    assert log_loss(np.full(4, 0.5), truth) == pytest.approx(math.log(2))
    assert log_loss(np.array([0.2, 0.9, 0.9, 0.9]), truth) == pytest.approx(-(math.log(0.8) + math.log(0.9)) / 2)
    assert log_loss(np.array([1.0, 1, 1, 1]), truth) == pytest.approx(-math.log(1e-6) / 2)


@given(st.lists(st.sampled_from("abcdefghijklmnop"), min_size=1, max_size=60))
def test_folds_leave_out_whole_takes_once(takes):
    folds = take_folds(takes)
    assert len(folds) == min(10, len(set(takes))) and (np.sum(folds, 0) == 1).all()
    for fold in folds:
        held = {take for take, out in zip(takes, fold, strict=True) if out}
        assert held and not held & {take for take, out in zip(takes, fold, strict=True) if not out}
