"""Layers that multiply in their weights' type, half precision or not, and keep all between them in float32.

With float32 weights they are torch's own. In half precision, rounding hurts where it adds up (sums along a residual
stream) or where neighbours are told apart (norms, places, masks), and saves nothing there; products are where it pays.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

HALVES = (torch.float16, torch.bfloat16)


def fitting(x: Float[Tensor, "..."], weight: Tensor) -> Float[Tensor, "..."]:
    """In the type of the weight that it is multiplied with; under autocast torch sees to it."""
    return x if torch.is_autocast_enabled(x.device.type) else x.to(weight.dtype)


def full(x: Float[Tensor, "..."] | None) -> Float[Tensor, "..."] | None:
    """At least float32; under autocast as torch decides."""
    rough = x is not None and x.dtype in HALVES and not torch.is_autocast_enabled(x.device.type)
    return x.float() if rough else x


class Linear(nn.Linear):
    def forward(self, x: Float[Tensor, "*rows a"]) -> Float[Tensor, "*rows b"]:
        return super().forward(fitting(x, self.weight))


class Conv2d(nn.Conv2d):
    def forward(self, x: Float[Tensor, "B a H W"]) -> Float[Tensor, "B b h w"]:
        return super().forward(fitting(x, self.weight))


class LayerNorm(nn.LayerNorm):
    def forward(self, x: Float[Tensor, "*rows C"]) -> Float[Tensor, "*rows C"]:
        return F.layer_norm(full(x), self.normalized_shape, full(self.weight), full(self.bias), self.eps)


class GroupNorm(nn.GroupNorm):
    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return F.group_norm(full(x), self.num_groups, full(self.weight), full(self.bias), self.eps)
