"""What tells an object apart: features pooled under its query mask, fused with what its caption became."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn


@torch.autocast("cuda", enabled=False)  # bfloat16 would blur where a small object is
def pool_regions(
    tokens: Float[Tensor, "B T D"], masks: Shaped[Tensor, "B K H W"], grid: tuple[int, int]
) -> Float[Tensor, "B K D"]:
    """Mean image feature over all pixels of each mask, the token grid read bilinearly at each pixel.

    The released code averages 256 random pixels per mask, unseeded; this is the exact expectation of that average, a
    fixed linear map of the mask, hence deterministic. Its coordinates are kept, since the weights grew up with them:
    pixel (y, x) reads the grid at (y/H * (h-1), x/W * (w-1)). An empty mask reads the mean over the whole image,
    which prefers no place (the released code reads the top left corner).
    """
    height, width = masks.shape[-2:]
    rows, columns = _hat_weights(height, grid[0], tokens.device), _hat_weights(width, grid[1], tokens.device)
    weights = (rows.T @ (masks.float() @ columns)).flatten(2)  # (B, K, T)
    area = weights.sum(-1, keepdim=True)  # in pixels, since every pixel gives away 1
    anywhere = torch.outer(rows.sum(0), columns.sum(0)).flatten() / (height * width)  # (T,)
    weights = torch.where(area > 0, weights / area.clamp(min=1), anywhere)
    return (weights @ tokens.float()).to(tokens.dtype)  # (B, K, D)


def _hat_weights(size: int, cells: int, device: torch.device) -> Float[Tensor, "size cells"]:
    """How much of each of `cells` values a bilinear read at each of `size` pixels takes; rows sum to 1."""
    place = torch.arange(size, device=device, dtype=torch.float32) / size * (cells - 1)
    return (1 - (place[:, None] - torch.arange(cells, device=device)).abs()).clamp(min=0)  # (size, cells)


class ConditionFusion(nn.Module):
    """MCFuse as released: each object's condition, mixed with one attention read-out that all objects share.

    fused_i = k v_i + (1 - k) c, where c attends from the record's caption vector over its objects' conditions v. The
    released layout makes the objects the sequence, so c is the same row for all objects of a record: it shifts every
    object's logits alike, and with one object it does not depend on the caption at all. The weights were trained so;
    changing it needs training.
    """

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(0.5))
        self.multihead_attn = nn.MultiheadAttention(hidden_dim, 1, batch_first=True)

    def forward(
        self,
        objects: Float[Tensor, "B K C"],
        captions: Float[Tensor, "B 1 C"],
        present: Bool[Tensor, "B K"],
        captioned: Bool[Tensor, "B K"],
    ) -> Float[Tensor, "B K C"]:
        """Fuse; rows where `present` is false are padding, neither read nor meaningful afterwards."""
        shared, _ = self.multihead_attn(captions, objects, objects, key_padding_mask=~present, need_weights=False)
        return self.k * objects + (1 - self.k) * shared  # (B, K, C)


class ObjectFusion(ConditionFusion):
    """MCFuse object by object: fused_i = k v_i + (1 - k) c_i, where caption t_i attends over {v_i, t_i}.

    The same parameters as released, another layout: what an object's caption says reaches that object and no other,
    also when it is the only one. An object without a caption asks, and hears, only itself.
    """

    def forward(
        self,
        objects: Float[Tensor, "B K C"],
        captions: Float[Tensor, "B K C"],
        present: Bool[Tensor, "B K"],
        captioned: Bool[Tensor, "B K"],
    ) -> Float[Tensor, "B K C"]:
        """Fuse each object with its own caption; `present` does not matter, since no object hears another."""
        asking = torch.where(captioned[..., None], captions, objects).flatten(0, 1)[:, None]  # (B*K, 1, C)
        heard = torch.stack([objects, captions], 2).flatten(0, 1)  # (B*K, 2, C)
        silent = torch.stack([torch.zeros_like(captioned), ~captioned], 2).flatten(0, 1)  # (B*K, 2)
        own, _ = self.multihead_attn(asking, heard, heard, key_padding_mask=silent, need_weights=False)
        return self.k * objects + (1 - self.k) * own.view_as(objects)


FUSIONS = {"released": ConditionFusion, "per_object": ObjectFusion}
"""By the name that a model's configuration gives."""
