"""The page: its figures have known answers, names cannot break out of it, and a browser shows it."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from conftest import write_take
from PIL import Image
from test_cli import run

from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.data.scoring import ScoredSample
from egoexo_xseg.jobs.evaluate import summarise
from egoexo_xseg.jobs.page import script_json
from egoexo_xseg.jobs.predict import PredictOptions, predict
from egoexo_xseg.jobs.report import (
    _columns,
    choose_album,
    choose_films,
    choose_galleries,
    error_rates,
    reliability,
    report,
    score_intervals,
)
from egoexo_xseg.records import Direction


def sample(take: int, frame: int, iou: float | None, confidence: float, object_id: str = "cup") -> ScoredSample:
    seen = iou is not None
    return ScoredSample(
        "ego2exo", f"take-{take}", object_id, "aria01", "cam01", frame, seen, confidence, iou,
        0.1 if seen else None, 0.5 if seen else None, True if seen else None, 0.01 if seen else None,
    )  # fmt: skip


SAMPLES = [
    sample(take, frame, None if frame % 5 == 4 else (take + frame) % 10 / 10, (3 * take + 7 * frame) % 20 / 20 + 0.025)
    for take in range(6)
    for frame in range(10)
]


def test_scores_are_the_official_ones_and_lie_within_their_intervals():
    official, found = summarise(SAMPLES), score_intervals(SAMPLES)
    for name, row in found.items():
        assert row[0] == pytest.approx(getattr(official, name))
        assert row[1] - 1e-12 <= row[0] <= row[2] + 1e-12
    assert found["iou"][2] > found["iou"][1]


def test_a_score_without_a_meaning_is_left_out():
    found = score_intervals([sample(0, 0, None, 0.9), sample(1, 0, None, 0.1)])
    assert found["iou"] is None and found["visibility_balanced_accuracy"][0] == 0.5


def test_where_nothing_is_absent_visibility_is_that_of_the_visible():
    samples = [sample(0, 0, 0.5, 0.9), sample(1, 0, 0.7, 0.1)]
    assert score_intervals(samples)["visibility_balanced_accuracy"][0] == 0.5
    assert summarise(samples).visibility_balanced_accuracy == 0.5


def test_no_rounding_brings_a_confidence_across_the_threshold():
    samples = [sample(0, 0, 0.5, value) for value in (0.5, 0.50001, 0.4999, 0.6, 7.0, float("nan"))]
    assert _columns(samples, ["take-0"])["confidence"] == [500, 501, 500, 600, 1000, 0]


def test_a_confidence_that_is_no_number_counts_as_none():
    assert reliability([sample(0, 0, 0.5, float("nan")), sample(0, 1, None, 0.02)]) == [(2, 0.01, 0.5)]


def test_reliability_counts_each_answer_once():
    rows = reliability(
        [sample(0, 0, 0.5, 0.91), sample(0, 1, None, 0.97), sample(0, 2, 0.1, 1.0), sample(0, 3, None, 0.02)]
    )
    assert rows == [(1, pytest.approx(0.02), 0.0), (3, pytest.approx(0.96), pytest.approx(2 / 3))]


def test_wrong_answers_about_visibility_are_counted():
    found = error_rates(SAMPLES)
    fn, fp = (
        np.mean([(each.confidence > 0.5) is not visible for each in SAMPLES if each.visible is visible])
        for visible in (True, False)
    )
    assert found["false_absent"][0] == pytest.approx(fn) and found["false_visible"][0] == pytest.approx(fp)
    assert error_rates([sample(0, 0, 0.5, 0.9)]) == {"false_absent": (0.0, 0.0, 0.0), "false_visible": None}


def test_galleries_hold_what_their_names_say():
    samples = [*SAMPLES, *(replace(each, object_id="jar", area_share=0.0001) for each in SAMPLES if each.frame == 7)]
    found = {gallery.name: [samples[row] for row in gallery.rows] for gallery in choose_galleries(samples)}
    best, median, worst = ([each.iou for each in found[name]] for name in ("Best", "Median", "Worst"))
    assert best == sorted(best, reverse=True) and best[0] == 0.9
    assert worst == sorted(worst) and worst[0] == 0.0
    assert 0.3 < np.mean(median) < 0.6
    assert all(each.confidence > 0.5 and (each.iou is None or each.iou < 0.1) for each in found["Sure and wrong"])
    assert all(each.confidence > 0.5 and not each.visible for each in found["False visible"])
    assert all(each.confidence <= 0.5 and each.visible for each in found["False absent"])
    assert {each.object_id for each in found["Smallest"]} == {"jar"}
    for own in found.values():
        objects = [(each.take_uid, each.object_id) for each in own]
        uids = [uid for uid, _ in objects]
        assert 0 < len(own) <= 6 and len(set(objects)) == len(objects) and max(map(uids.count, uids)) <= 2


def test_films_follow_what_changes():
    steady = [sample(1, frame, 0.5, 0.9) for frame in range(30)]
    brief = [sample(2, frame, float(frame % 2), 0.9) for frame in range(4)]
    wild = [sample(0, frame, (frame % 3) / 2, 0.9) for frame in reversed(range(30))]
    samples = [*brief, *steady, *wild, *(replace(each, object_id="jar", iou=0.5) for each in wild)]
    films = choose_films(samples)
    assert [samples[rows[0]].take_uid for rows in films] == ["take-0", "take-1", "take-2"]
    assert [samples[row].frame for row in films[0]] == list(range(0, 30, 3))
    assert {samples[row].object_id for row in films[0]} == {"cup"}


def test_the_album_is_spread_over_all_takes():
    uids = [f"take-{number}" for number in range(100)]
    album = choose_album(uids)
    assert len(album) == 24 and {"take-0", "take-50"} <= album
    assert choose_album(uids[:3]) == set(uids[:3]) and choose_album([]) == set()


def test_names_cannot_leave_the_script():
    hostile = "</script><script>alert(1)</script><!-- & \u2028 \ud800"
    text = script_json({"name": hostile})
    assert "<" not in text and "&" not in text and text.isascii()
    assert json.loads(text)["name"] == hostile


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A prepared take and one whose names are hostile."""
    folder = tmp_path_factory.mktemp("report") / "data"
    for seed, uid in enumerate(("take-a", "take-b")):
        write_take(folder / uid, np.random.default_rng(seed))
    path = folder / "take-a" / "annotation.json"
    annotation = json.loads(path.read_text())
    annotation["take_name"] = "</script><b>take"
    for part in ("masks", "annotated_frames"):
        annotation[part]["<img src=x onerror=alert(1)>"] = annotation[part].pop("red cup _0")
    path.write_text(json.dumps(annotation))
    return folder


@pytest.fixture(scope="module")
def predicted(data, tiny_model):
    for direction in Direction:
        predict(PredictOptions(data, data.parent / "pred", direction, str(tiny_model), device="cpu"))
    return data.parent / "pred"


def embedded(page: str, name: str = "data") -> dict:
    return json.loads(page.split(f'<script id="{name}" type="application/json">')[1].split("</script>")[0])


def test_the_page_holds_everything_it_shows(predicted, data, tmp_path):
    result = run("report", predicted, "--annotations", data, "--out", tmp_path / "report")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "report" / "index.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "https://" not in page
    assert "<b>take" not in page and "<img src=x" not in page
    values, tiles = embedded(page), embedded(page, "pictures")
    assert [d["name"] for d in values["directions"]] == ["ego2exo", "exo2ego"]
    for direction in values["directions"]:
        records = direction["records"]
        assert len(records["iou"]) == direction["samples"] == sum(direction["confusion"])
        assert sum(iou >= 0 for iou in records["iou"]) == direction["visible"]
    assert values["takes"][0] == ["</script><b>take", "Tea"] and values["comparable"] is False
    shown = [f"{gallery['direction']} {row}" for gallery in values["galleries"] for row in gallery["rows"]]
    assert shown and set(shown) <= set(tiles) and values["album"] == 2
    for tile in tiles.values():
        assert all(
            uri.startswith("data:image/jpeg;base64,") for uri in (tile["query"], tile["truth"], *tile["answers"])
        )
    assert len(values["films"]) >= 2 and all(len(film["rows"]) == len(film["frames"]) for film in values["films"])


def test_a_missing_frame_leaves_its_pictures_out(predicted, data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    for path in (copy / "take-a").glob("*/*.jpg"):
        path.unlink()
    values = report(predicted, open_annotations(copy), tmp_path / "report", workers=1).read_text()
    places = {
        (d["name"], row): take for d in embedded(values)["directions"] for row, take in enumerate(d["records"]["take"])
    }
    names = [key.split(" ") for key in embedded(values, "pictures")]
    assert {places[direction, int(row)] for direction, row in names} == {1}


def test_annotations_without_frames_give_a_page_without_pictures(predicted, data, tmp_path):
    submission, truth = tmp_path / "submission.json", tmp_path / "truth.json"
    assert run("pack", submission, "--predictions", predicted, "--data", data).exit_code == 0
    takes = {path.parent.name: json.loads(path.read_text()) for path in data.glob("*/annotation.json")}
    truth.write_text(json.dumps({"version": "1", "challenge": "c", "annotations": takes}))
    page = report(submission, open_annotations(truth), tmp_path / "report").read_text()
    values = embedded(page)
    assert values["galleries"] == values["films"] == [] and len(values["directions"]) == 2
    assert values["takes"][0] == ["</script><b>take", "Tea"] and embedded(page, "pictures") == {}


FETCHED = (
    "setTimeout(() => performance.getEntriesByType('resource').forEach((each) => console.error(each.name)), 1000);"
)


def browse(page, picture, theme="light", script=""):
    """The page as a browser draws it (grey), after a script of the test, and its console: errors, and what it fetched."""
    text = page.read_text().replace('<html lang="en">', f'<html lang="en" data-theme="{theme}">')
    page = picture.with_suffix(".html")
    page.write_text(text.replace("</body>", f"<script>{script}</script><script>{FETCHED}</script></body>"))
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
         f"--user-data-dir={picture.with_suffix('')}", "--virtual-time-budget=3000", "--window-size=1280,3000",
         f"--screenshot={picture}", page.as_uri()],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    with Image.open(picture) as image:
        return np.asarray(image.convert("L")), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")

PRESS = "const press = (key) => document.body.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));"

USE = """
$("search").value = "take-b"; listTakes();
if (listed.length !== 1) throw Error("search");
pick(listed[0]);
for (const gallery of data.galleries) { shownDirection = gallery.direction; shownGallery = gallery.name; drawGallery(); }
shownGallery = 'Best'; drawGallery();
drawFilms();
for (const key of ["d", "d", "]", "[", "/"]) press(key);
if (document.activeElement !== $("search")) throw Error("focus");
"""


@pytest.fixture(scope="module")
def page(predicted, data, tmp_path_factory):
    return report(predicted, open_annotations(data), tmp_path_factory.mktemp("page"))


@needs_chromium
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_shows_it(page, tmp_path, theme):
    pixels, console = browse(page, tmp_path / "page.png", theme)
    assert (pixels.mean() < 90) == (theme == "dark")
    assert pixels[:900].std() > 10  # scores, not an empty page
    assert console == []


@needs_chromium
def test_everything_on_it_can_be_used(page, tmp_path):
    turn = "$('tiles').firstElementChild.click(); press('ArrowRight'); if (viewed[1] !== 1) throw Error('page');"
    _, console = browse(page, tmp_path / "used.png", script=PRESS + USE + turn)
    assert console == []
    script = "new Image().src = 'http://localhost:9/'; throw Error('told');"
    _, console = browse(page, tmp_path / "told.png", script=script)
    assert "told" in "".join(console) and "Content Security Policy" in "".join(console)  # silence means something
