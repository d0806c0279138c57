"""Files of weights: which ones a folder has, and their tensors one by one, or by their headers alone."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from egoexo_xseg.errors import CheckpointError

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLES = ("model.safetensors", "pytorch_model.bin")

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
INTEGERS = {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8}
OTHERS = {"BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
DTYPES = FLOATS | INTEGERS | OTHERS
"""By safetensors' names."""

MAX_JSON = 1 << 26


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights, sorted; shards named by an index never lie outside the folder."""
    for name in INDEXES:
        if (folder / name).is_file():
            table = read_object(folder / name).get("weight_map")
            shards = list(table.values()) if isinstance(table, dict) and table else [None]
            for shard in shards:
                if not (isinstance(shard, str) and Path(shard).name == shard and (folder / shard).is_file()):
                    raise CheckpointError(f"no shard {shard!r} in this folder", where=folder / name)
            return sorted({folder / shard for shard in shards})
    for name in SINGLES:
        if (folder / name).is_file():
            return [folder / name]
    raise CheckpointError("no weights in this folder", where=folder, remedy=f"It needs {SINGLES[0]} or its shards")


def iter_weights(path: Path, headers_only: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor, one by one; of headers, tensors without memory."""
    try:
        if path.suffix == ".safetensors":
            # Not by mapping the file, whose pages would count as memory beside the model's own.
            with safe_open(path, "pt", backend="pread") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    if headers_only:
                        part = file.get_slice(name)
                        if part.get_dtype() not in DTYPES:
                            problem = f"{name!r} has a type that is not known ({part.get_dtype()})"
                            raise CheckpointError(problem, where=path)
                        yield name, torch.empty(part.get_shape(), dtype=DTYPES[part.get_dtype()], device="meta")
                    else:
                        yield name, file.get_tensor(name)
            return
        weights = _load_pickled(path)
    except pickle.UnpicklingError:
        raise CheckpointError(
            "the file holds something else than weights, and nothing is unpickled", where=path
        ) from None
    except (SafetensorError, OSError, RuntimeError, EOFError) as fault:
        raise CheckpointError(f"the file cannot be read ({str(fault)[:200]})", where=path) from None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError("the file holds something else than weights", where=path)
    for name, tensor in weights.items():
        yield str(name), tensor.to("meta") if headers_only else tensor


def read_object(path: Path) -> dict:
    try:
        if path.stat().st_size > MAX_JSON:
            raise CheckpointError("the file is too large", where=path)
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError("the file is missing", where=path) from None
    except (OSError, ValueError, RecursionError):
        raise CheckpointError("the file is not readable JSON", where=path) from None
    if not isinstance(values, dict):
        raise CheckpointError("the file must hold a JSON object", where=path)
    return values


def _load_pickled(path: Path) -> object:
    """Tensors only; whatever else a reader of broken files stumbles over is one kind of fault."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on the pickle's protocol before it finds it broken
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, OSError, MemoryError):
        raise
    except Exception as fault:
        raise RuntimeError(f"{type(fault).__name__}: {fault}") from None


def is_same_kind(one: torch.dtype, other: torch.dtype) -> bool:
    """Whether numbers can be copied from one to the other: eight bits are codes, which mean nothing by themselves."""
    return any({one, other} <= set(kind.values()) for kind in (FLOATS, INTEGERS))
