"""What made an output, written beside it; two makings do not mix."""

from __future__ import annotations

import json
import os
import platform
import secrets
from pathlib import Path
from typing import Any

from egoexo_xseg import __version__
from egoexo_xseg.errors import PredictionError
from egoexo_xseg.files import written_whole

MANIFEST = "manifest.json"
"""Its name in a folder."""


def versions() -> dict[str, str]:
    """Of everything that may change a model's answer."""
    import torch
    import transformers

    return {
        "xseg": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def read_manifest(path: Path) -> dict[str, Any]:
    """What made an output, with an `identity`; nothing where nobody said."""
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("identity", {}), dict):
        raise PredictionError("not readable as a manifest", where=path, remedy="Choose another folder, or delete it")
    return manifest


def check_manifest(path: Path, identity: dict[str, Any], *, where: Path, holds: str) -> None:
    """Refuse to go on in `where`, which `holds` what was made, if a manifest there names another identity."""
    if not path.is_file():
        return
    before = read_manifest(path).get("identity", {})
    other = [name for name, value in identity.items() if before.get(name) != value]
    if other:
        problem = f"{holds} made with another {' and '.join(other)}"
        raise PredictionError(problem, where=where, remedy="Choose another --out, or delete it")


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Shards may do so at the same time."""
    own = path.with_name(f"{path.stem}.{secrets.token_hex(4)}")
    with written_whole(own) as file:
        file.write(json.dumps(manifest, indent=1) + "\n")
    os.replace(own, path)


def refuse_other(folder: Path, manifest: dict[str, Any], holds: str = "predictions") -> None:
    """Leave a folder alone whose manifest has another `identity`."""
    check_manifest(folder / MANIFEST, manifest["identity"], where=folder, holds=f"this folder holds {holds}")


def settle_folder(folder: Path, manifest: dict[str, Any], holds: str = "predictions") -> None:
    """Write a folder's manifest, or make sure that the one in place has the same `identity`."""
    refuse_other(folder, manifest, holds)
    path = folder / MANIFEST
    if not path.is_file():
        write_manifest(path, manifest)
