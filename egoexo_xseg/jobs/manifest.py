"""What made an output, written beside it; two makings do not mix."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch
import transformers

from egoexo_xseg import __version__
from egoexo_xseg.data.submission import written_whole
from egoexo_xseg.errors import PredictionError


def versions() -> dict[str, str]:
    """Of everything that may change a model's answer."""
    return {
        "xseg": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def check_manifest(path: Path, identity: dict[str, Any], *, where: Path, holds: str) -> None:
    """Refuse to go on in `where`, which `holds` what was made, if a manifest there names another identity."""
    if not path.is_file():
        return
    try:
        before = json.loads(path.read_bytes()).get("identity", {})
        other = [name for name, value in identity.items() if before.get(name) != value]
    except (ValueError, AttributeError, RecursionError):
        raise PredictionError("not readable as a manifest", where=path, remedy="Choose another --out") from None
    if other:
        problem = f"{holds} made with another {' and '.join(other)}"
        raise PredictionError(problem, where=where, remedy="Choose another --out, or delete it")


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    with written_whole(path) as file:
        file.write(json.dumps(manifest, indent=1) + "\n")
