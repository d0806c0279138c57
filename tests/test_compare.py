"""Two methods side by side: differences with known answers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from test_cli import error, run
from test_report import SAMPLES, data, predicted  # noqa: F401 - fixtures

from egoexo_xseg.jobs.compare import compare_samples
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
        error("compare", *files, "--annotations", data) == f"{files[0]}, {files[1]}: the two files share no direction"
    )
