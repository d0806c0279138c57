"""The released checkpoints' names for weights, and ours: a translation both ways, on plain dictionaries."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# Longest first: "model." is Phi only where no tower's prefix matches.
PREFIXES = {
    "model.vision_tower.": "swin.",
    "model.mm_projector.": "projector.",
    "model.": "language.",
    "pixel_decoder.": "pixel_decoder.",
    "predictor.fuse_model.": "fusion.",
    "predictor.": "mask_decoder.",
    "seg_query_projector.": "mask_head.",
    "region_projector.": "object_head.",
    "SEG_token_projector.": "caption_head.",
}
MASK_TOKENS = ("seg_query", "mask_tokens")

# In the released files but never read: a language-model head without a language loss, heads of other tasks, decoder
# queries replaced by mask tokens, and a table that follows from the window size.
DEAD = re.compile(
    r"lm_head\..*|class_name_projector\..*|predictor\.(query_feat|SEG_query_embed|SEG_proj|CLASS_proj)\..*"
    r"|model\.vision_tower\..*\.relative_position_index"
)

FUSED = ".self_attn.query_key_value."
SPLIT = (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj.")


def is_dead(name: str) -> bool:
    """Whether a released weight plays no part in the forward pass."""
    return DEAD.fullmatch(name) is not None


def from_released(weights: Mapping[str, Tensor], num_heads: int) -> dict[str, Tensor]:
    """Our names for released weights; dead ones are left out, unknown ones keep their names.

    The language model's attention is stored fused, its rows ordered (head, q k v, channel): it becomes three.
    """
    ours: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if is_dead(name):
            continue
        renamed = _rename(name, PREFIXES, MASK_TOKENS)
        if FUSED in renamed and renamed.startswith("language.") and tensor.ndim and len(tensor) % (3 * num_heads) == 0:
            parts = tensor.unflatten(0, (num_heads, 3, -1)).unbind(1)  # 3 x (heads, channel, ...)
            ours |= {
                renamed.replace(FUSED, split): part.flatten(0, 1) for split, part in zip(SPLIT, parts, strict=True)
            }
        else:
            ours[renamed] = tensor
    return ours


def to_released(weights: Mapping[str, Tensor], num_heads: int) -> dict[str, Tensor]:
    """The released names for our weights: the inverse of `from_released`, but for the dead ones."""
    back = {ours: released for released, ours in PREFIXES.items()}
    released: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if SPLIT[0] in name:
            parts = [weights[name.replace(SPLIT[0], split)].unflatten(0, (num_heads, -1)) for split in SPLIT]
            name, tensor = name.replace(SPLIT[0], FUSED), torch.stack(parts, 1).flatten(0, 2)
        elif SPLIT[1] in name or SPLIT[2] in name:
            continue
        released[_rename(name, back, MASK_TOKENS[::-1])] = tensor
    return released


def _rename(name: str, prefixes: Mapping[str, str], whole: tuple[str, str]) -> str:
    if name == whole[0]:
        return whole[1]
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name[len(old) :]
    return name
