"""What xseg needs installed, found out with the standard library alone: nothing else may be there."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

NAME = "egoexo-xseg"

MODULES = {"pillow": "PIL"}
"""What packages are imported as, if not by their own names."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `state` is "fine", "note" or "fault"; only a fault keeps something from running."""

    what: str
    value: str
    state: str = "fine"


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was looked at, and the command that comes next."""

    findings: list[Finding]
    next: str

    @property
    def well(self) -> bool:
        return all(finding.state != "fault" for finding in self.findings)

    def to_json(self) -> dict[str, object]:
        return {"well": self.well, "next": self.next, "findings": [asdict(finding) for finding in self.findings]}


def check_packages() -> list[Finding]:
    """Versions of what xseg needs, and which of it is missing or cannot be imported."""
    versions, missing, broken = [], [], []
    for name in _needs():
        if name.startswith("opencv"):  # comes under several names, and is only imported where it is used
            continue
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
            importlib.import_module(MODULES.get(name, name))
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
        except Exception as fault:  # whatever a half-installed package meets
            broken.append(Finding("broken package", f"{name}: {' '.join(str(fault).split())[:200]}", "fault"))
    findings = [Finding("packages", ", ".join(versions) or "xseg is not installed, and does not say what it needs")]
    if missing:
        findings.append(Finding("missing packages", f"{', '.join(missing)}: pip install {' '.join(missing)}", "fault"))
    return [*findings, *broken]


def _needs() -> list[str]:
    """Names of packages, as the installed xseg tells them, or the project file of one that is only lying there."""
    wanted: Sequence[str] = ()
    try:
        wanted = importlib.metadata.requires(NAME) or ()
    except importlib.metadata.PackageNotFoundError:
        project = Path(__file__).parents[2] / "pyproject.toml"
        if project.is_file():
            wanted = tomllib.loads(project.read_text("utf-8")).get("project", {}).get("dependencies", ())
    found = (re.match(r"[\w.-]+", entry) for entry in wanted if "extra ==" not in entry)
    return [name[0] for name in found if name]
