"""Two methods side by side: differences with known answers."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import EGO
from test_cli import error, run
from test_report import PRESS, SAMPLES, browse, data, embedded, needs_chromium, predicted, sample  # noqa: F401 - fixtures

from egoexo_xseg.jobs.compare import compare_samples
from egoexo_xseg.masks import Rle, mask_to_rle, rle_to_mask
from egoexo_xseg.records import Direction


def test_the_lead_is_exact_and_sure_where_every_take_gains():
    better = [replace(each, iou=None if each.iou is None else each.iou + 0.05) for each in SAMPLES]
    found = compare_samples(Direction.EGO_EXO, SAMPLES, better)
    iou = next(each for each in found.differences if each.name == "iou")
    assert iou.lead == pytest.approx(0.05) and (iou.low, iou.high) == pytest.approx((0.05, 0.05)) and iou.is_sure
    others = [each for each in found.differences if each.name != "iou"]
    assert len(others) == 4 and all(each.lead == each.low == each.high == 0 and not each.is_sure for each in others)


def test_a_gain_in_one_take_alone_is_not_sure():
    lucky = [replace(each, iou=1.0) if each.take_uid == "take-0" and each.iou is not None else each for each in SAMPLES]
    iou = compare_samples(Direction.EGO_EXO, SAMPLES, lucky).differences[0]
    assert iou.lead > 0 and iou.low == 0 and not iou.is_sure


def test_objects_are_ordered_by_what_they_gained():
    gains = {f"take-{take}": 0.02 * take - 0.04 for take in range(6)}
    other = [replace(each, iou=None if each.iou is None else each.iou + gains[each.take_uid]) for each in SAMPLES]
    changes = compare_samples(Direction.EGO_EXO, SAMPLES, other).changes
    assert [change.take_uid for change in changes] == [f"take-{take}" for take in reversed(range(6))]
    assert [change.lead for change in changes] == pytest.approx([0.06, 0.04, 0.02, 0.0, -0.02, -0.04])
    assert {change.samples for change in changes} == {8}


def test_an_object_is_shown_where_it_changed_most():
    first = [sample(0, frame, 0.5, 0.9, name) for name in ("cup", "jar") for frame in range(4)]
    ious = [0.6, 0.9, 0.4, 0.9, 0.4, 0.3, 0.9, 0.0]
    second = [replace(each, iou=iou) for each, iou in zip(first, ious, strict=True)]
    cup, jar = compare_samples(Direction.EGO_EXO, first, second).changes
    assert (cup.object_id, cup.spot.frame, cup.ious) == ("cup", 1, (0.5, 0.9))
    assert (jar.object_id, jar.spot.frame, jar.ious) == ("jar", 3, (0.5, 0.0))


def test_takes_have_intervals_where_they_have_objects_to_draw():
    first = [sample(0, 0, 0.5, 0.9), sample(1, 0, 0.5, 0.9, "cup"), sample(1, 0, 0.5, 0.9, "jar")]
    second = [replace(each, iou=iou) for each, iou in zip(first, (0.6, 0.5, 0.9), strict=True)]
    one, other = compare_samples(Direction.EGO_EXO, first, second).takes
    assert (one.take_uid, one.samples, one.interval) == ("take-1", 2, pytest.approx((0.0, 0.4)))
    assert one.lead == pytest.approx(0.2)
    assert (other.take_uid, other.interval) == ("take-0", None) and other.lead == pytest.approx(0.1)


@pytest.fixture(scope="module")
def page(data, predicted, tmp_path_factory):  # noqa: F811
    """Two submissions, the second of which answers with the first one's masks, shifted, for one object."""
    folder = tmp_path_factory.mktemp("compare")
    files = [folder / name for name in ("one.json", "two.json")]
    for path in files:
        assert run("pack", path, "--predictions", predicted, "--data", data).exit_code == 0
    submission = json.loads(files[1].read_text())
    for direction in submission.values():
        for pairs in direction["results"]["take-b"]["masks"].values():
            for frames in pairs.values():
                for answer in frames.values():
                    mask = rle_to_mask(Rle.from_json(answer["pred_mask"]))
                    answer["pred_mask"] = mask_to_rle(np.roll(mask, 20, 1)).to_json()
    files[1].write_text(json.dumps(submission))
    result = run("compare", *files, "--annotations", data, "--out", folder / "page")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f"{folder / 'page' / 'index.html'}: open it in a browser\n")
    return folder / "page" / "index.html"


def test_the_page_shows_both_answers(page):
    text = page.read_text()
    values, tiles = embedded(text), embedded(text, "pictures")
    assert values["names"] == ["one", "two"] and values["drawn"] is True and "<b>take" not in text
    shown = [row for direction in values["directions"] for rows in direction["pictures"] for row in rows]
    assert (
        shown and {row["key"] for row in shown} == set(tiles) and {row["take"] for row in shown} == {"name of take-b"}
    )
    for direction in values["directions"]:
        assert [take["values"][0] == take["values"][1] for take in direction["takes"]].count(True) == 1
        better, worse = direction["pictures"]
        assert all(row["shown"][1] > row["shown"][0] for row in better)
        assert all(row["shown"][1] < row["shown"][0] for row in worse)
    for tile in tiles.values():
        assert len(tile["answers"]) == 2 and tile["answers"][0] != tile["answers"][1]


@needs_chromium
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_shows_it(page, tmp_path, theme):
    script = PRESS + "drawGallery(); for (const key of '][dd') press(key);"
    pixels, console = browse(page, tmp_path / "page.png", theme, script)
    assert (pixels.mean() < 90) == (theme == "dark") and pixels[:900].std() > 10
    assert console == []


def test_from_the_shell(data, predicted, tmp_path):  # noqa: F811
    files = [tmp_path / name for name in ("one.json", "two.json")]
    for path in files:
        assert run("pack", path, "--predictions", predicted, "--data", data).exit_code == 0
    result = run("compare", *files, "--annotations", data)
    assert result.exit_code == 0, result.output
    assert "ego2exo" in result.stdout and "exo2ego" in result.stdout and "+0.0000 to +0.0000" in result.stdout
    for path, direction in zip(files, ("ego-exo", "exo-ego"), strict=True):
        path.write_text(json.dumps({direction: json.loads(path.read_text())[direction]}))
    assert (
        error("compare", *files, "--annotations", data)
        == f"{files[0]}, {files[1]}: the two share no direction that can be scored"
    )


def test_a_direction_without_targets_is_left_out(data, predicted, tmp_path):  # noqa: F811
    copy, file = tmp_path / "data", tmp_path / "one.json"
    shutil.copytree(data, copy)
    for path in copy.glob("*/annotation.json"):
        annotation = json.loads(path.read_text())
        for cameras in annotation["annotated_frames"].values():
            cameras.pop(EGO, None)
        path.write_text(json.dumps(annotation))
    assert run("pack", file, "--predictions", predicted, "--data", data).exit_code == 0
    result = run("compare", file, file, "--annotations", copy)
    assert result.exit_code == 0, result.output
    assert "ego2exo" in result.stdout and "exo2ego" not in result.stdout


def test_folders_of_predictions(data, predicted, tmp_path):  # noqa: F811
    """A folder is as good as what it packs to, and nothing of that stays behind."""
    submission = tmp_path / "one.json"
    assert run("pack", submission, "--predictions", predicted, "--data", data).exit_code == 0
    expected = run("compare", submission, submission, "--annotations", data)
    before = sorted(tmp_path.rglob("*"))
    for pair in ((predicted, predicted), (predicted, submission)):
        result = run("compare", *pair, "--annotations", data)
        assert (result.exit_code, result.stdout) == (0, expected.stdout)
    assert sorted(tmp_path.rglob("*")) == before
    result = run("compare", predicted, submission, "--annotations", data, "--out", tmp_path / "page", "--workers", 1)
    assert result.exit_code == 0 and os.listdir(tmp_path / "page") == ["index.html"]
    assert embedded((tmp_path / "page" / "index.html").read_text())["names"] == [predicted.name, "one"]
    (tmp_path / "empty").mkdir()
    assert error("compare", predicted, tmp_path / "empty", "--annotations", data) == (
        f"{tmp_path / 'empty'}: no predictions here. Run xseg predict --out with this folder"
    )
