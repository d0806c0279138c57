"""Where models come from: a local folder, or a repository of the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from egoexo_xseg.errors import CheckpointError
from egoexo_xseg.records import Direction

RELEASED = {
    Direction.EGO_EXO: "wangzeze/ObjectRelator-Ego2Exo-Full",
    Direction.EXO_EGO: "wangzeze/ObjectRelator-Exo2Ego-Full",
}
JOINT = "wangzeze/ObjectRelator-Joint"


@dataclass(frozen=True)
class Published:
    """A checkpoint of this architecture on the Hub, 1.59 billion parameters in float32."""

    direction: str
    what: str
    gigabytes: float
    """Of its weights, as the Hub lists them."""
    licence: str = "Apache-2.0"


KNOWN = {
    "wangzeze/ObjectRelator-Ego2Exo-Full": Published("ego2exo", "trained on all records", 6.36),
    "wangzeze/ObjectRelator-Ego2Exo-Small": Published("ego2exo", "trained on fewer records", 6.36),
    "wangzeze/ObjectRelator-Exo2Ego-Full": Published("exo2ego", "trained on all records", 6.36),
    "wangzeze/ObjectRelator-Exo2Ego-Small": Published("exo2ego", "trained on fewer records", 6.36),
    JOINT: Published("both", "one model for both directions", 6.36),
    "EnmingZhang/PSALM": Published("-", "the start of training, without fusion", 6.40),
}

WANTED = ("*.safetensors", "*.safetensors.index.json", "config.json", "tokenizer.json", "vocab.json", "merges.txt")
WANTED += ("added_tokens.json", "calibration.json", "train.json")

PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
"""Asked for only where a repository has nothing else; torch reads tensors out of them and refuses all other content."""


def default_model(direction: Direction | None) -> str:
    """The released checkpoint that was trained for this direction, or for both (None)."""
    return RELEASED[direction] if direction else JOINT


def cache_home() -> Path:
    """Where xseg keeps what it makes of downloads: XSEG_CACHE, or xseg in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("XSEG_CACHE") or Path(home) / "xseg")


def model_home(repository: str) -> Path:
    """Where `cache_home` keeps what belongs to a repository."""
    return cache_home() / "models" / repository.replace("/", "--")


def resolve_model(
    model: str | Path, revision: str | None = None, wanted: Sequence[str] = WANTED, newest: bool = False
) -> Path:
    """The folder of a model given as a path or as `owner/name`, downloaded or taken from the cache.

    Of a repository only the files that `wanted` matches are taken. The commit that a name stood for at the first use
    is remembered, and later uses need no network; `newest` asks the Hub again. What comes is compared with the hashes
    that the Hub gives.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder
    if not is_repository(str(model)):
        raise CheckpointError("no such model folder", where=model, remedy="Give a folder, or a repository: owner/name")
    pins = model_home(str(model)) / "commits.json"
    key = " ".join([revision or "", *wanted])
    known = {} if newest else _read_pins(pins)
    if key in known and (kept := _find_snapshot(str(model), str(known[key]), wanted)):
        return kept
    folder = Path(_download(str(model), revision, wanted))
    if wanted is WANTED and not any(folder.glob("*.safetensors")):
        folder = Path(_download(str(model), revision, [*wanted, *PICKLED]))
    _check_hashes(str(model), folder)
    if not _is_whole(folder, wanted):  # whoever reads it says what is lacking, and the next time it is asked for again
        return folder
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


def _find_snapshot(repository: str, revision: str, wanted: Sequence[str]) -> Path | None:
    """The folder of a download that is complete as far as the `wanted` files go."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        kept = snapshot_download(repository, revision=revision, local_files_only=True, allow_patterns=list(wanted))
    except (LocalEntryNotFoundError, ValueError, OSError):
        return None
    return Path(kept) if _is_whole(Path(kept), wanted) else None


def _is_whole(folder: Path, wanted: Sequence[str]) -> bool:
    """Whether a folder holds what nobody can do without: a model's configuration and weights, or a tokenizer's words.

    The Hub's client cannot tell where another program has fetched single files.
    """
    from egoexo_xseg.model.checkpoint import weight_files

    if "config.json" not in wanted:
        there = {path.name for path in folder.iterdir()}
        return "tokenizer.json" in there or {"vocab.json", "merges.txt"} <= there
    try:
        return (folder / "config.json").is_file() and bool(weight_files(folder))
    except CheckpointError:
        return False


def _download(repository: str, revision: str | None, wanted: Sequence[str]) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        with bars_for_people():
            return snapshot_download(repository, revision=revision, allow_patterns=list(wanted))
    except GatedRepoError:
        problem, remedy = "the repository is gated", "Ask for access on its page, then run `hf auth login`"
    except RepositoryNotFoundError:
        problem = "no such folder, and no such repository on the Hub"
        remedy = "Check the name; a private one needs `hf auth login`, or HF_TOKEN"
    except RevisionNotFoundError:
        problem, remedy = f"the repository has no revision {revision!r}", "Check the name"
    except (LocalEntryNotFoundError, HTTPError, OSError, RuntimeError) as fault:  # the last from Xet, its fast transfer
        problem = "no such folder, and the repository can neither be reached nor is it in the cache"
        remedy = "Check the connection"
        if isinstance(fault, HfHubHTTPError) and fault.response.status_code == 401:
            problem, remedy = "the Hub does not accept the token", "Run `hf auth login`, or set HF_TOKEN to another"
    raise CheckpointError(problem, where=repository, remedy=remedy)


@contextmanager
def bars_for_people() -> Iterator[None]:
    """The Hub's own progress bars, on a terminal only; unless HF_HUB_DISABLE_PROGRESS_BARS says otherwise."""
    from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or HF_HUB_DISABLE_PROGRESS_BARS is not None or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _check_hashes(repository: str, folder: Path) -> None:
    """Compare downloaded files with the hashes that the Hub gave them: SHA-256 of large ones, git's of others.

    The Hub's cache names a file's content by its hash; a copy without links names nothing, and is not checked.
    """
    for path in sorted(folder.iterdir()):
        kept = path.resolve()
        if kept.parent.name != "blobs" or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", kept.name):
            continue
        digest = hashlib.sha256() if len(kept.name) == 64 else hashlib.sha1(b"blob %d\0" % kept.stat().st_size)
        with kept.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
        if digest.hexdigest() != kept.name:
            kept.unlink()  # or it would be taken for the right one
            problem = f"{path.name} is not the file whose hash the Hub gives"
            raise CheckpointError(problem, where=repository, remedy="It is deleted here; download it again")


def is_repository(name: str) -> bool:
    """Whether the Hub could have a repository `name`, written `owner/name`."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def find_cached(repository: str) -> Path | None:
    """The folder of a repository's newest complete download, without asking the network."""
    return _find_snapshot(repository, "main", WANTED)
