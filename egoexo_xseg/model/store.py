"""Published checkpoints on this machine: downloaded once, translated once, and read from there ever after."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from egoexo_xseg import __version__
from egoexo_xseg.errors import CheckpointError
from egoexo_xseg.model.checkpoint import WORDS, Headers, check_weights, held_as, iter_translated, read_headers
from egoexo_xseg.model.folders import whole_folder
from egoexo_xseg.model.hub import model_home, resolve_model
from egoexo_xseg.model.prompts import PromptBuilder
from egoexo_xseg.progress import detail, track

ORIGIN = "origin.json"
"""Beside a translated checkpoint: where it came from."""

PHI = "microsoft/phi-1_5"
ADDED = ("[PAD]", "[SEG]")
"""Tokens that the released table holds after Phi's own, in this order."""

SHARD_BYTES = 1 << 31


def fetch_model(
    model: str | Path, revision: str | None = None, dtype: torch.dtype = torch.float32, newest: bool = False
) -> Path:
    """The folder of a model given as a path or as `owner/name`, ready to be loaded without network or pickle.

    A repository in the released names is translated into ours once for each `dtype`, which takes as much disk again
    (5.9 GB in float32, 3.0 in float16), and kept in `cache_home()`. The commit that a name stood for at the first
    use is kept too; `newest` asks the Hub again.
    """
    folder = resolve_model(model, revision, newest=newest)
    if folder == Path(model):
        return folder
    commit, name = folder.name, str(dtype).removeprefix("torch.")
    target = model_home(str(model)) / f"{commit}-{name}"
    # First, since even the names of pickled weights cost reading all of them.
    if target.is_dir():
        return target
    headers = read_headers(folder)
    if not headers.released:
        return folder
    detail(f"{model}: translated into {target}")
    translate(folder, target, dtype, {"repository": str(model), "commit": commit}, headers)
    return target


def find_translations(repository: str) -> list[Path]:
    """Folders of what `fetch_model` has translated of a repository."""
    return sorted(folder for folder in model_home(repository).glob("[!.]*") if (folder / ORIGIN).is_file())


def read_origin(folder: Path) -> dict[str, str]:
    """Where a translated checkpoint came from; nothing for others."""
    try:
        values = json.loads((folder / ORIGIN).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return {name: value for name, value in values.items() if isinstance(value, str)} if isinstance(values, dict) else {}


def translate(
    source: Path, target: Path, dtype: torch.dtype, origin: dict[str, str], headers: Headers | None = None
) -> None:
    """Write a checkpoint of the released names under ours, all of it at once.

    Every name and shape is checked before anything is read; then tensor by tensor, in memory no more than 2 GB (pickled
    weights: and one file).
    """
    headers = headers or read_headers(source)
    check_weights(headers.config, headers.weights, where=source, fresh=headers.lacking)
    with whole_folder(target) as fresh:
        _write_tokenizer(source, fresh, headers.config.language.vocab_size)
        headers.config.save_pretrained(fresh)
        wanted = {name: tensor.numel() for name, tensor in headers.weights.items()}
        _write_weights(iter_translated(source, headers), fresh, dtype, len(wanted))
        (fresh / ORIGIN).write_text(json.dumps(origin | {"xseg": __version__}, indent=1) + "\n", "utf-8")


def _write_weights(weights: Iterator[tuple[str, Tensor]], folder: Path, dtype: torch.dtype, count: int) -> None:
    """Shards of at most 2 GB with their index."""
    shards: list[dict[str, Tensor]] = [{}]
    places: dict[str, int] = {}
    total = size = 0

    def close() -> None:
        save_file(shards[-1], folder / f"part-{len(shards)}.safetensors", {"format": "pt"})
        shards[-1] = {}  # only its place in the count is needed from here on

    for name, tensor in track(weights, "Translating", total=count):
        cast = tensor.to(held_as(name, dtype)).contiguous() if tensor.is_floating_point() else tensor
        if shards[-1] and size + cast.nbytes > SHARD_BYTES:
            close()
            shards.append({})
            size = 0
        shards[-1][name] = cast
        places[name] = len(shards)
        size, total = size + cast.nbytes, total + cast.nbytes
    close()
    names = [f"model-{index:05}-of-{len(shards):05}.safetensors" for index in range(1, len(shards) + 1)]
    for index, own in enumerate(names, 1):
        os.replace(folder / f"part-{index}.safetensors", folder / own)
    index = {"metadata": {"total_size": total}, "weight_map": {name: names[at - 1] for name, at in places.items()}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", "utf-8")


def _write_tokenizer(source: Path, target: Path, rows: int) -> None:
    """The checkpoint's own, or Phi's with the released additions where their ids are the table's last rows."""
    if any((source / name).is_file() for name in WORDS):
        PromptBuilder.load(source).save(target)
        return
    phi = resolve_model(PHI, wanted=WORDS)
    with tempfile.TemporaryDirectory() as name:
        words = Path(name)
        for file in ("vocab.json", "merges.txt"):
            shutil.copyfile(phi / file, words / file)
        added = json.loads((phi / "added_tokens.json").read_bytes()) if (phi / "added_tokens.json").is_file() else {}
        first = rows - len(ADDED)
        if len(json.loads((words / "vocab.json").read_bytes()).keys() | added.keys()) != first:
            problem = f"it has no tokenizer, and a table of {rows} rows is not Phi's with {' and '.join(ADDED)}"
            raise CheckpointError(problem, where=source)
        added |= {token: first + place for place, token in enumerate(ADDED)}
        (words / "added_tokens.json").write_text(json.dumps(added), "utf-8")
        PromptBuilder.load(words).save(target)
