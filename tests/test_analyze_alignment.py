"""Embeddings of both views: distances and ranks with known answers, and models that see the same from both sides."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import EGO

from egoexo_xseg.jobs.analyze import Study
from egoexo_xseg.jobs.analyze_alignment import (
    MOMENTS,
    Views,
    _measure,
    analyze_alignment,
    choose_shown,
    compare,
    compare_in_pairs,
    flatten,
)
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


def test_the_plane_of_points_on_a_line():
    points = np.outer([0.0, 1, 2, 7], [0, 3, 0, -4, 0])
    flat, share = flatten(points)
    assert share == pytest.approx(1) and np.allclose(flat[:, 1], 0)
    assert np.diff(flat[:, 0]) == pytest.approx([-5, -5, -25]) or np.diff(flat[:, 0]) == pytest.approx([5, 5, 25])
    assert (flatten(points)[0] == flat).all() and flatten(np.ones((3, 4)))[1] == 0


def test_a_picture_shows_the_fullest_take():
    objects = [0] * 20 + [1] * 3 + [2] * 9
    shown = choose_shown(views(range(32), range(32), objects=objects, takes=["a"] * 20 + ["b"] * 12))
    assert shown.tolist() == [23, 24, 26, 27, 29, 31, 20, 21, 22] and MOMENTS == 6


@pytest.fixture
def mirrored(analyze_options):
    """The ego camera and one exo camera, which see exactly the same."""
    for uid in ("take-a", "take-b"):
        folder = analyze_options.data / uid
        annotation = json.loads((folder / "annotation.json").read_text())
        shutil.rmtree(folder / "cam01")
        shutil.copytree(folder / EGO, folder / "cam01")
        annotation["camera_size"]["cam01"] = annotation["camera_size"][EGO]
        for cameras in annotation["masks"].values():
            cameras.pop("cam02")
            cameras["cam01"] = cameras[EGO]
        (folder / "annotation.json").write_text(json.dumps(annotation))
    return analyze_options


def test_equal_views_have_equal_embeddings(mirrored):
    for columns in Study(mirrored).measure(_measure).values():
        for embedding, width in (("region", 64), ("condition", 32)):
            found = Views.of(columns, embedding)
            assert found.query.shape == (12, width)  # two takes, three frames, two objects that are visible
            for near in (compare(found), compare_in_pairs(found)):
                assert (near.same == 0).all() and (near.rank == 1).all() and (near.different > 0).all()


def test_results(mirrored, tiny_model):
    options = replace(mirrored, directions=(Direction.EGO_EXO,), takes=("take-a",))
    text, faults = analyze_alignment(options, before=str(tiny_model))
    assert not faults and text == (options.out / "alignment.md").read_text("utf-8")
    assert (options.out / "alignment.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((options.out / "alignment.csv").read_text().splitlines()))
    found = {(row["model"], row["embedding"], row["figure"]): float(row["value"]) for row in rows}
    for model in ("before", "after"):
        for embedding in ("region", "condition"):
            assert found[model, embedding, "same over different"] == 0
            assert found[model, embedding, "first in its pair"] == found[model, embedding, "first among all"] == 1
            assert found[model, embedding, "first in its pair by chance"] == 0.5
    assert (
        "**ego2exo, conditions**: before, an object's distance to itself in the other view is 0.000 [0.000, 0.000]"
        in text
    )


def test_without_another_model(mirrored):
    options = replace(mirrored, directions=(Direction.EXO_EGO,), takes=("take-a",))
    text, _ = analyze_alignment(options)
    assert "before" not in text and "**exo2ego, conditions**: an object's distance to itself" in text
