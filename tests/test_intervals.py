"""Intervals over takes: what they hold, where there is nothing to draw, and that the same takes are drawn for both."""

from __future__ import annotations

import math

import numpy as np

from egoexo_xseg.data.intervals import RESAMPLES, interval, total_and_draws


def test_the_total_comes_first_and_draws_take_as_many():
    sums = np.array([[1.0, 2.0], [3.0, 5.0], [0.0, 1.0]])
    totals = total_and_draws(sums)
    assert totals.shape == (1 + RESAMPLES, 2) and totals[0].tolist() == [4.0, 8.0]
    assert set(total_and_draws(np.ones((3, 1)))[:, 0]) == {3.0}
    assert np.array_equal(total_and_draws(sums), totals)


def test_one_take_has_no_spread():
    totals = total_and_draws(np.array([[3.0, 4.0]]))
    assert interval(totals[:, 0] / totals[:, 1]) == (0.75, 0.75, 0.75)


def test_a_mean_of_many_takes_is_as_sure_as_theory_says():
    values = np.random.default_rng(1).normal(0.5, 0.1, 100)
    totals = total_and_draws(np.stack([values, np.ones(100)], 1))
    value, low, high = interval(totals[:, 0] / totals[:, 1])
    assert low < value < high and abs((high - low) / 2 - 1.96 * values.std() / 10) < 0.002


def test_draws_that_tell_nothing_are_left_out():
    assert interval(np.array([0.5, np.nan, 0.4, np.inf, 0.4])) == (0.5, 0.4, 0.4)
    assert all(map(math.isnan, interval(np.array([np.nan, np.nan]))))
