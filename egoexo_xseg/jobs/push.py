"""A checkpoint of ours becomes a repository of the Hub, with a page that tells what it is."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from egoexo_xseg.data.visibility import FILE_NAME, checkpoint_map
from egoexo_xseg.errors import CheckpointError, XsegError
from egoexo_xseg.jobs.card import make_card, read_scores
from egoexo_xseg.jobs.weights import inspect
from egoexo_xseg.model.checkpoint import INDEXES, WORDS, weight_files
from egoexo_xseg.model.hub import bars_for_people, is_repository
from egoexo_xseg.model.prompts import PromptBuilder
from egoexo_xseg.records import Direction

CARD, SCORES = "README.md", "scores.json"

BESIDE = (*INDEXES, "config.json", *WORDS, FILE_NAME, "train.json", "reliability.png", CARD)
"""What is published with the weights, where it is there; nothing else of a folder is."""

REPLACED = ("*.safetensors", "pytorch_model*.bin", *BESIDE, SCORES)
"""What an earlier upload may have left in a repository, and would be mistaken for a part of this one."""

LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def push(
    folder: Path, repository: str, *, scores: Path | None = None, licence: str = "apache-2.0", private: bool = False
) -> str:
    """Publish a checkpoint folder in one commit, and give its address.

    The repository is made if there is none. A README.md of the folder becomes its page; where there is none, or with
    `scores` (of `xseg evaluate --json`), one is written. Raises an XsegError for a folder that is not ready to predict
    and for whatever the Hub refuses.
    """
    if not is_repository(repository):
        raise CheckpointError("no name of a repository", where=repository, remedy="Give owner/name")
    if not LICENCE.fullmatch(licence):
        raise XsegError(f"{licence!r} is no licence's name on the Hub", remedy="For example apache-2.0, or other")
    files = collect(folder, repository, scores, licence)
    return upload(repository, files, private)


def collect(folder: Path, repository: str, scores: Path | None, licence: str) -> dict[str, Path | bytes]:
    """What is published, by its name in the repository, after all of it has been checked."""
    weights = weight_files(folder)
    contents = inspect(folder)
    if contents.settings["names"] != "xseg" or any(path.suffix != ".safetensors" for path in weights):
        problem = "only xseg's own checkpoints in safetensors are published"
        raise CheckpointError(problem, where=folder, remedy="Run xseg weights convert, and push what it writes")
    PromptBuilder.load(folder)
    for direction in Direction:
        checkpoint_map(folder, contents.digest, direction)
    measured = read_scores(scores) if scores else None
    files: dict[str, Path | bytes] = {path.name: path for path in weights}
    files |= {name: folder / name for name in BESIDE if (folder / name).is_file()}
    if scores:
        files[SCORES] = scores
    if scores or CARD not in files:
        files[CARD] = make_card(folder, contents, repository, licence, measured).encode()
    return files


def upload(repository: str, files: Mapping[str, Path | bytes], private: bool) -> str:
    """Put files into a repository in one commit, which also removes what they replace; the commit's address."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
    from huggingface_hub.errors import HTTPError

    token = get_token()
    if not token:
        remedy = "Run `hf auth login`, or set HF_TOKEN to a token that may write"
        raise XsegError("no token for the Hub", where=repository, remedy=remedy)
    api = HfApi(token=token)
    try:
        with bars_for_people(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a page without metadata is the author's choice
            api.create_repo(repository, private=private or None, exist_ok=True)
            info = api.model_info(repository)
            if private and not info.private:
                remedy = "Make it private in its settings first, or choose another name"
                raise XsegError("the repository is there, and public", where=repository, remedy=remedy)
            there = [each.rfilename for each in info.siblings or ()]
            stale = [
                name
                for name in there
                if name not in files and "/" not in name and any(fnmatchcase(name, form) for form in REPLACED)
            ]
            commit = api.create_commit(
                repository,
                [
                    *(CommitOperationAdd(name, content) for name, content in files.items()),
                    *(CommitOperationDelete(name) for name in stale),
                ],
                commit_message="Upload a checkpoint with xseg",
            )
    except (HTTPError, OSError, RuntimeError, ValueError) as fault:
        problem, remedy = _explain(fault)
        raise XsegError(problem, where=repository, remedy=remedy) from None
    return commit.commit_url


def _explain(fault: BaseException) -> tuple[str, str]:
    """Problem and remedy. The Hub's own words are left out: they may repeat what was sent, the token too."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    status = fault.response.status_code if isinstance(fault, HfHubHTTPError) else None
    if status == 401:
        return "the Hub does not accept the token", "Run `hf auth login`, or set HF_TOKEN to another"
    if status in (403, 404) or isinstance(fault, PermissionError):  # the latter from Xet, the Hub's fast transfer
        return "the token may not write there", "Take one with write permission, of an account that owns the name"
    if status is not None:
        return f"the Hub answers with status {status}", "Try again later; nothing was changed"
    if isinstance(fault, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set", "Nothing is uploaded without the network"
    if isinstance(fault, ValueError):
        return f"the Hub does not accept the metadata of {CARD}", "See what stands between its --- lines"
    if isinstance(fault, RuntimeError) and fault.__cause__ is not None:
        return _explain(fault.__cause__)
    return "the Hub cannot be reached", "Check the connection, and give the command again"
