"""What the doctor sees, and what he sends one to do."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import run

from egoexo_xseg.jobs import doctor
from egoexo_xseg.jobs.doctor import FULL_SIZE, MOST_RECORDS, SPARE, FreeMemory, diagnose, record_numbers, suggest_batch
from egoexo_xseg.jobs.packages import Finding, check_packages
from egoexo_xseg.model.configuration import CrossViewConfig


def finding(diagnosis, what):
    return next(each for each in diagnosis.findings if each.what == what)


def test_a_healthy_folder_leads_to_predicting(data):
    found = diagnose(data, "val")
    assert found.next == f"xseg predict --direction both --data {data} --split val --out PRED"
    # Three frames of three cameras, of which one shows nothing at its second frame and is a target there.
    assert finding(found, "takes").value == "2 prepared, 18 frames to look at"
    assert not any(each.what == "incomplete" for each in found.findings)


def test_missing_frames_and_takes_are_named(data):
    (data / "take-a" / "cam01" / "30.jpg").unlink()
    (data / "take-b" / "annotation.json").unlink()
    found = diagnose(data, "val")
    assert [each.value for each in found.findings if each.what == "incomplete"] == [
        "take take-b is not prepared",
        "take take-a lacks 1 of 9 frames",
    ]
    assert not found.well and found.next == f"xseg prepare RAW {data} --split val"


def test_frames_of_hidden_targets_are_looked_for_too(data):
    path = data / "take-a" / "annotation.json"
    annotation = json.loads(path.read_text())
    for cameras in annotation["masks"].values():
        del cameras["cam01"], cameras["cam02"]
    path.write_text(json.dumps(annotation))
    (data / "take-a" / "cam02" / "60.jpg").unlink()
    found = diagnose(data, "val")
    assert finding(found, "incomplete").value == "take take-a lacks 1 of 9 frames"


def test_nothing_prepared_leads_to_preparing(tmp_path):
    found = diagnose(tmp_path / "nothing")
    assert finding(found, "takes").value == f"no folder {tmp_path / 'nothing'}"
    assert found.next == f"xseg prepare RAW {tmp_path / 'nothing'}"


@pytest.fixture
def without(monkeypatch):
    """Has a package be installed under no such name."""
    real = importlib.metadata.version

    def forget(gone: str) -> None:
        def version(name):
            if name == gone:
                raise importlib.metadata.PackageNotFoundError(name)
            return real(name)

        monkeypatch.setattr(importlib.metadata, "version", version)

    return forget


def test_a_missing_package_is_named(without):
    without("scipy")
    found = diagnose()
    assert finding(found, "missing packages").value == "scipy: pip install scipy"
    assert "numpy" in finding(found, "packages").value and not found.well


def test_a_package_that_keeps_the_rest_from_starting_is_named():
    code = (
        "import sys\nsys.modules['pycocotools'] = None\n"  # as if it were not there
        "from egoexo_xseg.cli import cli\nsys.argv = ['xseg', 'doctor']\ncli()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr == "Error: some checks failed: see the lines marked !\n"
    assert "! broken package  pycocotools: import of pycocotools halted" in done.stdout
    assert "Next: pip install" in done.stdout


def test_an_xseg_that_is_not_installed_knows_its_needs_all_the_same(monkeypatch):
    def requires(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert {"torch", "pillow", "scipy"} <= {each.split()[0] for each in check_packages()[0].value.split(", ")}
    monkeypatch.setattr(Path, "is_file", lambda _: False)
    assert check_packages() == [Finding("packages", "xseg is not installed, and does not say what it needs")]


def test_opencv_may_have_come_under_another_name(without):
    without("opencv-python")
    assert not any(each.what == "missing packages" for each in diagnose().findings)


def test_the_batch_that_fits_follows_from_the_free_memory():
    config = CrossViewConfig()
    record = 4 * record_numbers(config)  # bytes, also where weights are float16
    assert 0.6e9 < record < 3e9
    weights = 2 * FULL_SIZE
    for batch in (1, 7, 64):
        free = (weights + batch * record + 1) / SPARE
        assert suggest_batch(config, int(FULL_SIZE), FreeMemory(True, int(free) + 1, 2)) == batch
    assert suggest_batch(config, int(FULL_SIZE), FreeMemory(True, int(weights / SPARE), 2)) == 0
    assert suggest_batch(config, int(FULL_SIZE), FreeMemory(True, 10**12, 2)) == MOST_RECORDS
    assert record_numbers(CrossViewConfig.tiny()) < record_numbers(config) / 100


def test_the_suggested_batch_becomes_part_of_the_next_command(data, tiny_model, monkeypatch):
    monkeypatch.setattr(doctor, "_free_memory", lambda: FreeMemory(True, 20 * 10**9, 2))
    found = diagnose(data, "val")
    record = f"{4 * record_numbers(CrossViewConfig()) / 1e9:.2f}"
    batch = suggest_batch(CrossViewConfig(), int(FULL_SIZE), FreeMemory(True, 20 * 10**9, 2))
    assert finding(found, "model").value == (
        f"1,483 million parameters take 3.0 GB, a record about {record} GB (estimated), 20 GB are free: "
        f"give --batch-size {batch}"
    )
    assert found.next.endswith(f"--split val --batch-size {batch} --out PRED") and 5 < batch < MOST_RECORDS
    own = diagnose(data, "val", model=str(tiny_model))
    assert "give --batch-size 64" in finding(own, "model").value and f"--model {tiny_model} --batch-size 64" in own.next
    monkeypatch.setattr(doctor, "_free_memory", lambda: FreeMemory(True, 10**9, 2))
    small = finding(diagnose(data, "val"), "model")
    assert small.value.endswith("1 GB are free: too little") and small.state == "note"


def test_a_model_that_is_not_here_is_a_fault(tmp_path):
    assert (
        finding(diagnose(model="nobody/nothing"), "model").value == "nobody/nothing: no such folder, and not downloaded"
    )
    found = diagnose(model=str(tmp_path))
    assert not found.well and finding(found, "model").value.startswith(f"{tmp_path}: no weights in this folder")


def test_the_disk_that_a_published_model_takes_is_told():
    words = finding(diagnose(), "published models").value
    assert words.endswith("each takes 6.4 GB to download and 5.9 GB translated")


def recordings(folder, videos):
    """Two takes of two seconds, with these (empty) files in place of videos."""
    (folder / "annotations").mkdir(parents=True)
    track = {"annotation": {}, "annotated_frames": [0, 30, 60]}
    takes = {
        f"take-{letter}": {
            "take_name": f"name_{letter}",
            "object_masks": {"cup": {"aria01_214-1": track, "cam01": track}, "hostile": 3, "jar": {"../cam": track}},
        }
        for letter in "ab"
    }
    (folder / "annotations" / "relations_val.json").write_text(json.dumps({"annotations": takes}))
    for letter, camera in videos:
        path = folder / "takes" / f"name_{letter}" / "frame_aligned_videos" / "downscaled" / "448" / f"{camera}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_recordings_without_videos_are_named(tmp_path):
    raw = recordings(tmp_path / "raw", [("a", "cam01"), ("b", "aria01_214-1")])
    found = diagnose(raw=raw, split="val")
    assert [each.value for each in found.findings if each.what == "recordings"] == [
        "2 takes in relations_val.json",
        "take take-a (name_a) lacks its ego video",
        "take take-b (name_b) lacks cam01",
    ]
    assert found.well and found.next == f"xseg prepare {raw} DATA --split val"


def test_disk_space_is_frames_by_measured_bytes(tmp_path, data):
    raw = recordings(tmp_path / "raw", [])
    # Two takes of two cameras, frames 0, 30 and 60.
    assert finding(diagnose(raw=raw), "disk space").value.startswith(
        "12 frames take about 0.0 GB prepared (70 kB each,"
    )
    sizes = [path.stat().st_size for path in data.glob("*/*/*.jpg")]
    measured = finding(diagnose(data, raw=raw), "disk space").value
    assert f"({sum(sizes) / len(sizes) / 1e3:.0f} kB each, measured on {len(sizes)} of them)" in measured


def test_no_recordings_lead_to_downloading(tmp_path):
    found = diagnose(tmp_path / "data", "val", tmp_path)
    assert finding(found, "recordings").value == f"no annotations/relations_val.json in {tmp_path}" and not found.well
    assert found.next.startswith(f"egoexo -o {tmp_path} --parts metadata annotations downscaled_takes/448")


def test_from_the_shell(data):
    result = run("doctor", "--data", data, "--split", "val")
    assert result.exit_code == 0, result.output
    assert "Next: xseg predict --direction both" in " ".join(result.stdout.split())
    values = json.loads(run("doctor", "--json").stdout)
    assert values["well"] is True and {"torch", "GPU"} <= {each["what"].split(" ")[0] for each in values["findings"]}
    (data / "take-a" / "cam01" / "30.jpg").unlink()
    result = run("doctor", "--data", data)
    assert result.exit_code == 1 and result.stderr == "Error: some checks failed: see the lines marked !\n"


def test_what_comes_next_can_be_done(data, tmp_path):
    raw = tmp_path / "raw"
    (raw / "annotations").mkdir(parents=True)
    (raw / "annotations" / "relations_val.json").write_text('{"annotations": {}}')
    download = (
        f"egoexo -o {raw} --parts metadata annotations downscaled_takes/448 --benchmarks correspondence relations"
    )
    assert diagnose(split="test", raw=raw).next == f"{download} --splits test"
    assert diagnose(split="val", raw=raw).next == f"xseg prepare {raw} DATA --split val"
    assert diagnose(raw, "val").next == f"xseg prepare {raw} DATA --split val"
