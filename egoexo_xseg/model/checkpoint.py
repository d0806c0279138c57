"""Checkpoint folders: strict loading of ours and of the released ones, and saving."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers.initialization import no_init_weights

from egoexo_xseg.errors import CheckpointError, XsegError, printable
from egoexo_xseg.model.configuration import CrossViewConfig
from egoexo_xseg.model.folders import hash_files, whole_folder
from egoexo_xseg.model.prompts import PromptBuilder, byte_tokenizer, word_tokenizer
from egoexo_xseg.model.released import from_released, is_dead
from egoexo_xseg.model.segmenter import CrossViewModel
from egoexo_xseg.model.weight_files import INDEXES, SINGLES, is_same_kind, iter_weights, read_object, weight_files
from egoexo_xseg.progress import detail

WORDS = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")
RELEASED_TYPE = "llava_phi"
VOCABULARY = "model.embed_tokens.weight"

OWN = (*INDEXES, *SINGLES, *WORDS, "config.json", "train.json", "origin.json", "calibration.json", "reliability.png")
"""Files of a checkpoint, besides SHARD: where another is saved in its place they go, and everything else stays."""

SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")

EXACT = (
    "swin.patch_embed", "projector", "region_heads", "mask_head", "object_head", "caption_head", "fusion",
    "pixel_decoder", "mask_decoder",
)  # fmt: skip
"""Parts that stay in float32 where the rest is bfloat16, whose 8 bits are too few: for the edges of masks, and for what
costs next to nothing."""

FRESH = ("fusion", "region_heads")
"""Parts that a training may start without."""

SHOWN = 20
"""Names listed of each kind of fault; a wrong folder has hundreds."""

log = logging.getLogger("egoexo_xseg")


def load_checkpoint(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    changes: Mapping[str, object] | None = None,
) -> tuple[CrossViewModel, PromptBuilder]:
    """The model of a folder, ready to predict, and the writer of its prompts.

    Everything is checked by the files' headers before the model is allocated, then read tensor by tensor: the peak is
    the weights plus one tensor (of pickled weights, plus one file). With `changes` to the configuration, the start of
    a training, the parts of `FRESH` may be missing and are made anew (PSALM has no fusion; finer region features are
    an addition).
    """
    headers = read_headers(folder)
    config, found = headers.config, headers.weights
    if headers.dead:
        detail(f"{folder}: weights that play no part are dropped: {_listed(headers.dead)}")
    prompts = PromptBuilder.load(folder)
    num_tokens, rows = max(prompts.tokenizer.get_vocab().values()) + 1, config.language.vocab_size
    if num_tokens > rows:
        raise CheckpointError(f"the tokenizer has {num_tokens} tokens, the model knows {rows}", where=folder)
    fresh = []
    if changes is not None:
        config, fresh = _changed(config, changes), headers.lacking
    check_weights(config, found, where=folder, fresh=fresh)
    with torch.device(device), _default_dtype(dtype), no_init_weights():
        segmenter = CrossViewModel(config)
    for part in EXACT:
        segmenter.get_submodule(part).to(held_as(part, dtype))
    own = segmenter.state_dict()
    with torch.no_grad():
        for name, value in iter_translated(folder, headers):
            if name in own:
                own[name].copy_(value)
    for part in fresh:
        segmenter.renew(part)
    return segmenter.eval(), prompts


@dataclass(frozen=True)
class Headers:
    """What a folder holds, as its files' headers tell: weights by our names, without memory."""

    config: CrossViewConfig
    released: bool
    """Whether the files bear the released names."""
    weights: dict[str, Tensor]
    dead: list[str]
    """Released weights that play no part."""

    @property
    def lacking(self) -> list[str]:
        """Parts of `FRESH` that are not there at all: such a checkpoint is a start of training, and cannot predict."""
        return [part for part in FRESH if not any(name.startswith(f"{part}.") for name in self.weights)]


def read_headers(folder: Path) -> Headers:
    """Look at a folder without reading its weights."""
    shapes = {name: tensor for path in weight_files(folder) for name, tensor in iter_weights(path, headers_only=True)}
    config, released = _read_config(folder / "config.json", shapes)
    dead = [name for name in shapes if released and is_dead(name)]
    heads = config.language.num_attention_heads if released else None
    return Headers(config, released, _translate(shapes, heads), dead)


def iter_translated(folder: Path, headers: Headers | None = None) -> Iterator[tuple[str, Tensor]]:
    """A folder's weights by our names, one by one, so that no more than one (pickled: than a file) lies in memory."""
    headers = headers or read_headers(folder)
    heads = headers.config.language.num_attention_heads if headers.released else None
    for path in weight_files(folder):
        for name, tensor in iter_weights(path):
            yield from _translate({name: tensor}, heads).items()


def check_weights(
    config: CrossViewConfig, found: Mapping[str, Tensor], where: object, fresh: Sequence[str] = ()
) -> None:
    """Compare weights (by our names) with what `config` asks for; only names, shapes and types are looked at.

    Raises one CheckpointError that lists all that is missing or of the wrong shape or type; names the unknown in a
    warning.
    """
    expected = _expected_weights(config)
    # A counter that inference never reads; some tools drop it.
    missing = [
        name
        for name in expected
        if name not in found and not name.endswith("num_batches_tracked") and name.partition(".")[0] not in fresh
    ]
    wrong = [
        f"{name} ({_size(found[name].shape)} instead of {_size(tensor.shape)})"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    coded = [
        f"{name} ({str(found[name].dtype).removeprefix('torch.')})"
        for name, tensor in expected.items()
        if name in found and not is_same_kind(found[name].dtype, tensor.dtype)
    ]
    unknown = [name for name in found if name not in expected]
    if unknown:
        log.warning("%s: weights that this model does not know are skipped: %s", where, _listed(unknown))
    kinds = {"missing": missing, "wrong shape": wrong, "wrong type": coded}
    faults = [f"{kind}: {_listed(names)}" for kind, names in kinds.items() if names]
    if faults:
        raise CheckpointError(f"the weights do not fit the model; {'; '.join(faults)}", where=where)


def _expected_weights(config: CrossViewConfig) -> dict[str, Tensor]:
    """All weights, without allocating any."""
    try:
        with torch.device("meta"):
            return CrossViewModel(config).state_dict()
    except Exception as fault:  # values that are possible one by one but not together
        raise CheckpointError(f"no model can be built ({str(fault)[:200]})", where="config.json") from None


def save_checkpoint(
    segmenter: CrossViewModel,
    prompts: PromptBuilder,
    folder: Path,
    weights: Mapping[str, Tensor] | None = None,
    beside: Sequence[Path] = (),
) -> None:
    """Write weights (safetensors, in shards of 5 GB), configuration and tokenizer; all of it appears at once.

    `weights` stand for the segmenter's own where those are spread over processes. Copies of the files `beside` are
    part of the folder. An earlier checkpoint there is replaced; what else lies beside it, such as a README.md, is kept.
    """
    kept = _others(folder) if folder.exists() else []
    with whole_folder(folder, replaced=True) as fresh:
        save_torch_state_dict(dict(weights or segmenter.state_dict()), fresh, max_shard_size="5GB")
        segmenter.config.save_pretrained(fresh)
        prompts.save(fresh)
        for path in kept:
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, fresh / path.name)
        for path in beside:
            shutil.copyfile(path, fresh / path.name)


def new_checkpoint(folder: Path, config: CrossViewConfig, seed: int, words: Sequence[str] = ()) -> None:
    """Write an untrained model, the same for the same seed; it reads bytes, or whole `words` where some are given."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        segmenter = CrossViewModel(config)
    config.untrained = True
    tokenizer = word_tokenizer(words) if words else byte_tokenizer()
    save_checkpoint(segmenter, PromptBuilder(tokenizer), folder)


def read_shape(path: Path) -> CrossViewConfig:
    """The configuration in a `config.json` of ours that stands by itself."""
    return _read_config(path, {})[0]


def held_as(name: str, dtype: torch.dtype) -> torch.dtype:
    """The type of a weight, or of a part, in a model that runs in `dtype`."""
    return torch.float32 if dtype == torch.bfloat16 and name.startswith(EXACT) else dtype


def checkpoint_hash(folder: Path) -> str:
    """SHA-256 over everything in the folder that decides a mask: weights, configuration, tokenizer.

    Not over a calibration of visibility, which names the checkpoint that it is for by this hash.
    """
    words = [folder / name for name in ("config.json", *WORDS) if (folder / name).is_file()]
    return hash_files([*weight_files(folder), *words])


def _changed(config: CrossViewConfig, changes: Mapping[str, object]) -> CrossViewConfig:
    """The configuration with other values, which are checked like its own."""
    saved = json.loads(config.to_json_string())
    return _checked(CrossViewConfig.from_dict, saved | dict(changes), where="config.json")


def _read_config(path: Path, shapes: Mapping[str, Tensor]) -> tuple[CrossViewConfig, bool]:
    """The configuration, and whether the weights bear the released names."""
    values = read_object(path)
    kind = values.get("model_type")
    if kind == CrossViewConfig.model_type:
        return _checked(CrossViewConfig.from_dict, values, where=path), False
    if kind == RELEASED_TYPE:
        if VOCABULARY not in shapes:
            raise CheckpointError(f"the weights do not fit the model; missing: {VOCABULARY}", where=path.parent)
        rows = len(shapes[VOCABULARY])
        return _checked(partial(CrossViewConfig.from_released, vocab_size=rows), values, where=path), True
    raise CheckpointError(
        f"model_type is {kind!r}, not {CrossViewConfig.model_type!r} or {RELEASED_TYPE!r}", where=path
    )


def _checked(
    read: Callable[[dict[str, object]], CrossViewConfig], values: dict[str, object], where: object
) -> CrossViewConfig:
    try:
        return read(values)
    except XsegError:
        raise
    except Exception as fault:  # transformers checks the values, with exceptions of its own
        raise CheckpointError(f"the configuration cannot be used ({str(fault)[:200]})", where=where) from None


def _translate(weights: Mapping[str, Tensor], released_heads: int | None) -> dict[str, Tensor]:
    if released_heads is None:
        return dict(weights)
    return from_released(weights, released_heads)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _others(folder: Path) -> list[Path]:
    """What is no part of the checkpoint of ours in a folder; anything but such a checkpoint, or nothing, is refused."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else [folder]
    try:
        ours = not entries or (folder.is_dir() and not _read_config(folder / "config.json", {})[1])
    except XsegError:
        ours = False
    if not ours:
        raise CheckpointError("not a checkpoint folder", where=folder, remedy="Choose a new or an empty one")
    return [path for path in entries if path.is_dir() or not (path.name in OWN or SHARD.fullmatch(path.name))]


def _size(shape: torch.Size) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return printable(", ".join(names[:SHOWN]) + more)
