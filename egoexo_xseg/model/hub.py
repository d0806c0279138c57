"""Where models come from: a local folder, or a repository of the Hugging Face Hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from egoexo_xseg.errors import CheckpointError
from egoexo_xseg.records import Direction

RELEASED = {
    Direction.EGO_EXO: "wangzeze/ObjectRelator-Ego2Exo-Full",
    Direction.EXO_EGO: "wangzeze/ObjectRelator-Exo2Ego-Full",
}
JOINT = "wangzeze/ObjectRelator-Joint"

KNOWN = {
    "wangzeze/ObjectRelator-Ego2Exo-Full": ("ego2exo", "trained on all records"),
    "wangzeze/ObjectRelator-Ego2Exo-Small": ("ego2exo", "trained on fewer records"),
    "wangzeze/ObjectRelator-Exo2Ego-Full": ("exo2ego", "trained on all records"),
    "wangzeze/ObjectRelator-Exo2Ego-Small": ("exo2ego", "trained on fewer records"),
    JOINT: ("both", "one model for both directions"),
    "EnmingZhang/PSALM": ("-", "the start of training, without fusion"),
}
"""The published checkpoints of this architecture, 1.59 billion parameters each: direction, and what they are."""

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

WANTED = ("*.safetensors", "*.safetensors.index.json", "config.json", "tokenizer.json", "vocab.json", "merges.txt")
WANTED += ("added_tokens.json", "calibration.json")

PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
"""Asked for only where a repository has nothing else; torch reads tensors out of them and refuses all other content."""


def default_model(direction: Direction | None) -> str:
    """The released checkpoint that was trained for this direction, or for both (None)."""
    return RELEASED[direction] if direction else JOINT


def cache_home() -> Path:
    """Where xseg keeps what it makes of downloads: XSEG_CACHE, or xseg in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("XSEG_CACHE") or Path(home) / "xseg")


def resolve_model(
    model: str | Path, revision: str | None = None, wanted: Sequence[str] = WANTED, newest: bool = False
) -> Path:
    """The folder of a model given as a path or as `owner/name`, downloaded or taken from the cache.

    Of a repository only the files that `wanted` matches are taken. The commit that a name stood for at the first use
    is remembered, and later uses need no network; `newest` asks the Hub again.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder
    if not REPOSITORY.fullmatch(str(model)):
        raise CheckpointError("no such model folder", where=model, remedy="Give a folder, or a repository: owner/name")
    pins = cache_home() / "models" / str(model).replace("/", "--") / "commits.json"
    key = " ".join([revision or "", *wanted])
    known = {} if newest else _read_pins(pins)
    if key in known and (kept := _find_snapshot(str(model), known[key])):
        return kept
    folder = Path(_download(str(model), revision, wanted))
    if wanted is WANTED and not any(folder.glob("*.safetensors")):
        folder = Path(_download(str(model), revision, [*wanted, *PICKLED]))
    pins.parent.mkdir(parents=True, exist_ok=True)
    partial = pins.with_name(f".{pins.name}.{os.getpid()}")
    partial.write_text(json.dumps(_read_pins(pins) | {key: folder.name}, indent=1) + "\n", "utf-8")
    os.replace(partial, pins)
    return folder


def _read_pins(path: Path) -> dict[str, str]:
    try:
        pins = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return pins if isinstance(pins, dict) else {}


def _find_snapshot(repository: str, commit: object) -> Path | None:
    """The folder of a download that was complete once."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=str(commit), local_files_only=True))
    except (LocalEntryNotFoundError, ValueError, OSError):
        return None


def _download(repository: str, revision: str | None, wanted: Sequence[str]) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return snapshot_download(repository, revision=revision, allow_patterns=list(wanted))
    except GatedRepoError:
        problem, remedy = "the repository is gated", "Ask for access on its page, then run `hf auth login`"
    except RepositoryNotFoundError:
        problem, remedy = "no such folder, and no such repository on the Hub", "Check the name"
    except RevisionNotFoundError:
        problem, remedy = f"the repository has no revision {revision!r}", "Check the name"
    except (LocalEntryNotFoundError, HTTPError, OSError):
        problem = "no such folder, and the repository can neither be reached nor is it in the cache"
        remedy = "Check the connection"
    raise CheckpointError(problem, where=repository, remedy=remedy)


def find_cached(repository: str) -> Path | None:
    """The folder of a repository's newest downloaded snapshot, without asking the network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "config.json")
    return Path(found).parent if isinstance(found, str) else None
