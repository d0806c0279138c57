"""Right, shuffled and no captions: differences with known answers, and captions that reach the wrong objects."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from egoexo_xseg.errors import XsegError
from egoexo_xseg.jobs.analyze_text import analyze_text, compare
from egoexo_xseg.records import Direction


def columns(ious, shares, visible=True, confidences=None) -> dict[str, np.ndarray]:
    """Two takes with as many rows each; `ious` by kind of captions."""
    ious = np.array(ious, float).T
    return {
        "take_uid": np.repeat(["a", "b"], len(ious) // 2),
        "visible": np.broadcast_to(visible, len(ious)),
        "area_share": np.array(shares, float),
        "iou": ious,
        "confidence": np.ones(ious.shape) if confidences is None else np.array(confidences, float).T,
    }


def test_equal_answers_differ_by_nothing():
    ious = np.random.default_rng(0).random(8)
    figures = compare(columns([ious] * 3, [0.001, 0.02] * 4))
    differences = [found for (_, told, _), found in figures.items() if " - " in told]
    assert len(differences) > 10 and all(each.value == each.low == each.high == 0 for each in differences)


def test_small_against_large():
    right, shuffled, none = [0.9, 0.6, 0.9, 0.6], [0.5, 0.5, 0.5, 0.5], [0.6, 0.6, 0.6, 0.6]
    figures = compare(columns([right, shuffled, none], [0.005, 0.0051, 0.0001, 0.3]))
    found = {key[1:]: round(estimate.value, 9) for key, estimate in figures.items() if key[0] == "iou"}
    assert found["right", "small"] == 0.9 and found["right", "large"] == 0.6
    assert found["right - shuffled", "all"] == 0.25 and found["right - none", "small"] == 0.3
    assert found["right - none", "large"] == 0 and found["right - none", "small - large"] == 0.3
    assert found["right", "< 0.1%"] == 0.9 and found["right", "> 5%"] == 0.6 and ("right", "1-5%") not in found


def test_visibility():
    confidences = [[0.9, 0.1, 0.9, 0.1], [0.9, 0.9, 0.9, 0.9], [0.1, 0.9, 0.1, 0.9]]
    nan = np.nan
    figures = compare(columns([[0.5, nan, 0.5, nan]] * 3, [0.1, nan] * 2, [True, False] * 2, confidences))
    found = {key[1]: estimate.value for key, estimate in figures.items() if key[0] == "visibility"}
    assert (found["right"], found["shuffled"], found["none"], found["right - none"]) == (1.0, 0.5, 0.0, 1.0)
    assert figures["iou", "right", "all"].samples == 2 and figures["visibility", "right", "all"].samples == 4


def test_captions_are_needed(analyze_options):
    with pytest.raises(XsegError, match="captions are needed. Give --captions"):
        analyze_text(analyze_options)


def test_results(analyze_options, captions_file):
    options = replace(analyze_options, captions=captions_file, takes=("take-a",))
    text, faults = analyze_text(options)
    assert not faults and text == (options.out / "text.md").read_text("utf-8")
    assert "(for 80% of the objects), shuffled with seed 0" in text and "**exo2ego**: IoU of " in text
    first = {path.name: path.read_bytes() for path in options.out.iterdir() if path.is_file()}
    assert set(first) == {"manifest.json", "text.csv", "text.md", "text.png"}
    assert first["text.png"].startswith(b"\x89PNG")
    rows = list(csv.DictReader(first["text.csv"].decode().splitlines()))
    assert {row["direction"] for row in rows} == {direction.value for direction in Direction}
    values = {(row["direction"], row["measure"], row["captions"], row["objects"]): float(row["value"]) for row in rows}
    right, none, gain = (values["ego2exo", "iou", told, "all"] for told in ("right", "none", "right - none"))
    assert gain == pytest.approx(right - none, abs=2e-6)
    shutil.rmtree(options.out)
    analyze_text(options)
    assert first == {name: (options.out / name).read_bytes() for name in first}


def test_captions_that_tell_nothing_apart_change_nothing(analyze_options, captions_file):
    rows = [json.loads(line) | {"caption": "a thing"} for line in captions_file.read_text().splitlines()]
    captions_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = replace(analyze_options, captions=captions_file, directions=(Direction.EGO_EXO,), takes=("take-a",))
    text, _ = analyze_text(options)
    assert "Right less shuffled: +0.000 [+0.000, +0.000]" in text
