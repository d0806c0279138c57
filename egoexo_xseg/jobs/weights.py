"""What checkpoints hold, which ones there are, and the same weights under other names."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict

from egoexo_xseg.data.sources import read_json
from egoexo_xseg.data.visibility import FILE_NAME, read_calibration
from egoexo_xseg.errors import CheckpointError, XsegError
from egoexo_xseg.jobs.published import REPORTED
from egoexo_xseg.model.checkpoint import (
    WORDS,
    check_weights,
    checkpoint_hash,
    load_checkpoint,
    read_headers,
    save_checkpoint,
    weight_files,
)
from egoexo_xseg.model.configuration import CrossViewConfig
from egoexo_xseg.model.folders import whole_folder
from egoexo_xseg.model.hub import KNOWN, Published, find_cached
from egoexo_xseg.model.released import to_released
from egoexo_xseg.model.store import find_translations, read_origin

PARTS = {
    "swin": "image tower (Swin)",
    "projector": "projector",
    "language": "language model (Phi)",
    "mask_tokens": "mask tokens",
    "mask_head": "heads",
    "object_head": "heads",
    "caption_head": "heads",
    "region_heads": "finer region features",
    "fusion": "fusion of masks and captions",
    "pixel_decoder": "pixel decoder",
    "mask_decoder": "mask decoder",
}
"""Names for people, by the first part of a weight's name."""

REMARKS = ("untrained", "transformers_version", "dtype", "architectures")
"""Of a configuration."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Contents:
    """A checkpoint folder, by its headers: sizes in parameters and bytes, and where it came from."""

    parts: dict[str, int]
    dtypes: tuple[str, ...]
    num_bytes: int
    digest: str
    settings: dict[str, object]
    provenance: dict[str, object]

    @property
    def num_parameters(self) -> int:
        return sum(self.parts.values())

    def to_json(self) -> dict[str, object]:
        return {
            "parameters": self.num_parameters,
            "parts": self.parts,
            "dtypes": list(self.dtypes),
            "bytes": self.num_bytes,
            "sha256": self.digest,
            "settings": self.settings,
            "provenance": self.provenance,
        }


def inspect(folder: Path) -> Contents:
    """Everything but the weights themselves is read; raises a CheckpointError if they do not fit the model.

    A start of training, such as PSALM, which has no fusion, fits.
    """
    headers = read_headers(folder)
    config = headers.config
    check_weights(config, headers.weights, where=folder, fresh=headers.lacking)
    parts: dict[str, int] = {}
    for name, tensor in headers.weights.items():
        part = PARTS.get(name.partition(".")[0], "unknown: skipped")
        parts[part] = parts.get(part, 0) + tensor.numel()
    settings = {
        "names": "released" if headers.released else "xseg",
        "image side": config.image_size,
        "language tokens an image": config.grid[0] * config.grid[1],
        "proposals": config.decoder.num_mask_tokens,
        "vocabulary": config.language.vocab_size,
        "fusion": "none yet: a start of training" if "fusion" in headers.lacking else config.fusion,
        "trained": "no" if config.untrained else "yes",
    }
    stored = {tensor.dtype for tensor in headers.weights.values() if tensor.is_floating_point()}  # without counters
    dtypes = sorted(str(dtype).removeprefix("torch.") for dtype in stored)
    files = weight_files(folder)
    return Contents(
        {name: parts[name] for name in dict.fromkeys([*PARTS.values(), *parts]) if name in parts},
        tuple(dtypes),
        sum(path.stat().st_size for path in files),
        checkpoint_hash(folder),
        settings,
        _provenance(folder),
    )


def _provenance(folder: Path) -> dict[str, object]:
    """How it was trained and calibrated, as far as the folder tells."""
    found: dict[str, object] = dict(read_origin(folder))
    if (folder / "train.json").is_file():
        values = read_json(folder / "train.json")
        config = values.get("config") if isinstance(values, dict) else None
        for name in ("stage", "direction", "steps", "batch_size", "lr", "alignment", "seed"):
            if isinstance(config, dict) and config.get(name) is not None:
                found[f"training's {name}"] = config[name]
    if (folder / FILE_NAME).is_file():
        found["calibrated for"] = " and ".join(direction.value for direction in read_calibration(folder / FILE_NAME))
    return found


@dataclass(frozen=True, slots=True)
class Entry:
    """A published checkpoint, what is reported of it, and where it lies on this machine, if it does."""

    name: str
    published: Published
    reported: list[dict[str, Any]]
    download: Path | None
    translations: list[Path]

    @property
    def folders(self) -> list[Path]:
        return [self.download, *self.translations] if self.download else self.translations

    def to_json(self) -> dict[str, object]:
        here = {
            "download": str(self.download) if self.download else None,
            "translations": [str(folder) for folder in self.translations],
        }
        return {"name": self.name, **asdict(self.published), "reported": self.reported, **here}


def known_checkpoints() -> list[Entry]:
    """The published ones, and what of them is here."""
    return [
        Entry(name, published, REPORTED.get(name, []), find_cached(name), find_translations(name))
        for name, published in KNOWN.items()
    ]


def convert(source: Path, target: Path, names: str = "xseg", dtype: str = "float32") -> None:
    """Write a checkpoint anew under our names or the released ones ("xseg" or "released"), all of it at once.

    The released form has no room for another size or fusion than the published models have: those are refused.
    """
    if target.exists():
        raise XsegError("the folder is there already", where=target, remedy="Choose a new one")
    if names == "xseg":
        segmenter, prompts = load_checkpoint(source, dtype=DTYPES[dtype])
        save_checkpoint(segmenter, prompts, target)
        return
    config = read_headers(source).config
    values = released_values(config)
    if _shape(CrossViewConfig.from_released(values, config.language.vocab_size)) != _shape(config):
        problem = "the released form holds the published models' size and settings only"
        raise CheckpointError(problem, where=source, remedy="Convert to xseg's names")
    segmenter, _ = load_checkpoint(source, dtype=DTYPES[dtype])
    weights = to_released(segmenter.state_dict(), config.language.num_attention_heads)
    with whole_folder(target) as fresh:
        save_torch_state_dict({name: tensor.contiguous() for name, tensor in weights.items()}, fresh)
        (fresh / "config.json").write_text(json.dumps(values, indent=1) + "\n", "utf-8")
        for name in WORDS:
            if (source / name).is_file():
                shutil.copyfile(source / name, fresh / name)


def _shape(config: CrossViewConfig) -> dict[str, object]:
    """What decides an answer, without remarks on how the file came about."""
    language = {name: value for name, value in config.language.to_dict().items() if name not in REMARKS}
    return {name: value for name, value in config.to_dict().items() if name not in REMARKS} | {"language": language}


def released_values(config: CrossViewConfig) -> dict[str, object]:
    """The released `config.json` of a model of this language model's shape."""
    language = config.language
    return {
        "model_type": "llava_phi",
        "swin_type": "base",
        "mm_projector_type": "swin_conv",
        "hidden_size": language.hidden_size,
        "intermediate_size": language.intermediate_size,
        "num_hidden_layers": language.num_hidden_layers,
        "num_attention_heads": language.num_attention_heads,
        "hidden_act": language.hidden_act,
        "max_position_embeddings": language.max_position_embeddings,
        "layer_norm_eps": language.layer_norm_eps,
        "vocab_size": language.vocab_size,
    }
