"""Distances and ranks with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from egoexo_xseg.jobs import embeddings
from egoexo_xseg.jobs.embeddings import Aligned, Views, compare, compare_in_pairs
from egoexo_xseg.records import Direction


def views(query, target, objects=None, pairs=None, takes=None) -> Views:
    """Embeddings of one number each."""
    count = len(query)
    objects = np.arange(count) if objects is None else np.array(objects)
    pairs = np.zeros(count, int) if pairs is None else np.array(pairs)
    takes = np.array(["take"] * count if takes is None else takes)
    sides = (np.array(side, float)[:, None] for side in (query, target))
    return Views(takes, objects.astype(str), objects, pairs, *sides)


def test_distances_and_ranks():
    near = compare(views([0, 10, 20], [1, 9, 3]))
    assert near.same.tolist() == [1, 1, 17]
    assert near.different.tolist() == [6, 8, 15]
    assert near.rank.tolist() == [1, 1, 2] and near.chance.tolist() == [1 / 3] * 3


def test_the_same_object_at_other_moments_is_no_candidate():
    near = compare(views([0, 0, 5], [4, 0, 1], objects=[7, 7, 8]))
    assert near.rank.tolist() == [2, 1, 2]
    assert near.chance.tolist() == [1 / 2, 1 / 2, 1 / 3] and near.different.tolist() == [1, 1, 3]


def test_a_collapsed_model_is_no_better_than_chance():
    near = compare(views([3] * 5, [3] * 5))
    assert near.rank.tolist() == [3] * 5 and near.same.tolist() == near.different.tolist() == [0] * 5


def test_pairs_of_views_are_worlds_of_their_own():
    found = views([0, 10, 0, 10, 50], [1, 9, 9, 1, 0], objects=[0, 1, 0, 1, 2], pairs=[4, 4, 2, 2, 7])
    near = compare_in_pairs(found)
    assert near.rank.tolist() == [1, 1, 2, 2, 1] and near.same.tolist() == [1, 1, 9, 9, 50]
    assert near.different[:4].tolist() == [9, 9, 1, 1] and np.isnan(near.different[4]) and near.chance[4] == 1


def test_figures(monkeypatch):
    found = views([0, 10, 0, 50], [1, 9, 9, 0], objects=[0, 1, 0, 2], pairs=[4, 4, 2, 7], takes=["a", "a", "b", "b"])
    figures = Aligned(Direction.EGO_EXO, "after", "region", found, compare_in_pairs(found)).figures()
    values = {name: (each.value, each.samples) for name, each in figures.items()}
    assert values["distance of the same object"] == (1, 2) and values["distance of different objects"] == (9, 2)
    assert values["same over different"] == (pytest.approx(1 / 9), 2)
    assert values["first in its pair"] == (1, 2) and values["first in its pair by chance"] == (0.5, 2)
    assert values["rank among all"] == (pytest.approx((2 + 1.5 + 2.5 + 4) / 4), 4)
    monkeypatch.setattr(embeddings, "RANKED", 2)
    figures = Aligned(Direction.EGO_EXO, "after", "region", found, compare_in_pairs(found)).figures()
    assert figures["rank among all"].samples == 2
