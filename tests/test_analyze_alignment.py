"""Embeddings of both views: distances and ranks with known answers, and models that see the same from both sides."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from conftest import EGO

from egoexo_xseg.jobs.analyze import Study
from egoexo_xseg.jobs.analyze_alignment import (
    _draw,
    _measure,
    analyze_alignment,
    choose_moments,
    choose_objects,
    flatten,
)
from egoexo_xseg.jobs.charts import write_figure
from egoexo_xseg.jobs.embeddings import Aligned, Views, compare, compare_in_pairs
from egoexo_xseg.records import Direction


def test_the_plane_of_points_on_a_line():
    points = np.outer([0.0, 1, 2, 7], [0, 3, 0, -4, 0])
    flat, share = flatten(points)
    assert share == pytest.approx(1) and np.allclose(flat[:, 1], 0)
    assert np.diff(flat[:, 0]) == pytest.approx([-5, -5, -25]) or np.diff(flat[:, 0]) == pytest.approx([5, 5, 25])
    assert (flatten(points)[0] == flat).all() and flatten(np.ones((3, 4)))[1] == 0


def views(object_ids: list[str], take_uids: list[str]) -> Views:
    count = np.arange(len(object_ids))
    sides = np.random.default_rng(0).random((2, len(count), 3))
    return Views(np.array(take_uids), np.array(object_ids), count, count, *sides)


def test_a_picture_shows_the_fullest_take():
    found = views(["a"] * 20 + ["b"] * 3 + ["c"] * 9, ["one"] * 20 + ["two"] * 12)
    objects = choose_objects(found)
    assert objects == [("two", "c"), ("two", "b")]
    chosen = choose_moments(found, [*objects, ("two", "unseen")])
    assert {index: rows.tolist() for index, rows in chosen.items()} == {0: [23, 24, 26, 27, 29, 31], 1: [20, 21, 22]}


def test_names_in_any_script_and_objects_that_are_alone_are_drawn(tmp_path):
    found = views(["$x^{", "陶器\n🙂", "\x07 bell", "a long name of more than two dozen letters"], ["take"] * 4)
    lone = Aligned(Direction.EGO_EXO, "after", "region", found, compare_in_pairs(found))
    assert np.isnan(lone.figures()["same over different"].value)
    write_figure(partial(_draw, [lone]), tmp_path / "lone.png")
    assert (tmp_path / "lone.png").read_bytes().startswith(b"\x89PNG") and len(list(tmp_path.iterdir())) == 1


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
            cameras["cam01"] = cameras[EGO]
        (folder / "annotation.json").write_text(json.dumps(annotation))
    return analyze_options


def test_equal_views_have_equal_embeddings(mirrored):
    for columns in Study(mirrored).measure(_measure).values():
        for embedding, width in (("region", 64), ("condition", 32)):
            found = Views.of(columns, embedding)
            assert found.query.shape == (8, width)  # two takes, two frames, two objects that are visible
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
        "over that to the other objects there: 0.000 [0.000, 0.000] before, 0.000 [0.000, 0.000] after. Nearest" in text
    )


def test_without_another_model(mirrored):
    options = replace(mirrored, directions=(Direction.EXO_EGO,), takes=("take-a",))
    text, _ = analyze_alignment(options)
    assert "before" not in text and "over that to the other objects there: 0.000 [0.000, 0.000]. Nearest" in text
