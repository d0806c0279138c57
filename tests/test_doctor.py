"""What the doctor sees, and what he sends one to do."""

from __future__ import annotations

import importlib.metadata
import json

from test_cli import run

from egoexo_xseg.jobs import doctor
from egoexo_xseg.jobs.doctor import diagnose


def finding(diagnosis, what):
    return next(each for each in diagnosis.findings if each.what == what)


def test_a_healthy_folder_leads_to_predicting(data):
    found = diagnose(data, "val")
    assert found.next == f"xseg predict --direction ego2exo --data {data} --split val --out PRED"
    # Three frames of three cameras; one camera shows nothing at its second frame.
    assert finding(found, "takes").value == "2 prepared, 16 frames with objects"
    assert not any(each.what == "incomplete" for each in found.findings)


def test_missing_frames_and_takes_are_named(data):
    (data / "take-a" / "cam01" / "30.jpg").unlink()
    (data / "take-b" / "annotation.json").unlink()
    found = diagnose(data, "val")
    assert [each.value for each in found.findings if each.what == "incomplete"] == [
        "take take-b is not prepared",
        "take take-a lacks 1 of 8 frames",
    ]
    assert not found.well and found.next == f"xseg prepare RAW {data} --split val"


def test_nothing_prepared_leads_to_preparing(tmp_path):
    found = diagnose(tmp_path / "nothing")
    assert finding(found, "takes").value == f"no folder {tmp_path / 'nothing'}"
    assert found.next == f"xseg prepare RAW {tmp_path / 'nothing'}"


def test_a_missing_package_is_named(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "scipy":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    found = diagnose()
    assert finding(found, "missing packages").value == "scipy: pip install scipy"
    assert "numpy" in finding(found, "packages").value and not found.well


def test_from_the_shell(data):
    result = run("doctor", "--data", data, "--split", "val")
    assert result.exit_code == 0, result.output
    assert "Next: xseg predict --direction ego2exo" in " ".join(result.stdout.split())
    values = json.loads(run("doctor", "--json").stdout)
    assert values["well"] is True and {"torch", "GPU"} <= {each["what"].split(" ")[0] for each in values["findings"]}
    (data / "take-a" / "cam01" / "30.jpg").unlink()
    result = run("doctor", "--data", data)
    assert result.exit_code == 1 and "Error: not everything is well" in result.stderr
