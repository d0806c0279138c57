"""Layers that multiply in their weights' type, half precision or not, and keep all between them in float32.

With float32 weights they are torch's own. In half precision, rounding hurts where it adds up (sums along a residual
stream) or where neighbours are told apart (norms, places, masks), and saves nothing there; products are where it pays.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

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


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}
FUSED = {"none": ("none", ""), "gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh")}
"""The same as oneDNN's operator knows them: what, and which way. Its ReLU makes zeros of what is no number."""


def linear(
    x: Float[Tensor, "*rows a"],
    weight: Float[Tensor, "b a"],
    bias: Float[Tensor, " b"] | None,
    activation: str = "none",
) -> Float[Tensor, "*rows b"]:
    """An affine map in the weight's type, and one of `ACTIVATIONS`.

    Prediction on a CPU has oneDNN do both in one pass, by the operator that torch's compiler uses. `F.linear` takes MKL
    for float32, whose products are slower on AMD's processors.
    """
    x = fitting(x, weight)
    if fuses(x, weight):
        what, way = FUSED[activation]
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, what, [], way)
    return ACTIVATIONS[activation](F.linear(x, weight, bias))


def fuses(x: Float[Tensor, "..."], weight: Tensor) -> bool:
    """Whether oneDNN's operator can do it: it knows no gradients."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    return weight.dtype in onednn()


@lru_cache(maxsize=1)
def onednn() -> tuple[torch.dtype, ...]:
    """What it multiplies here, where torch was built with it."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return ()
    return (torch.float32, torch.bfloat16) if torch.ops.mkldnn._is_mkldnn_bf16_supported() else (torch.float32,)


class Linear(nn.Linear):
    """With one of `ACTIVATIONS` behind it."""

    activation = "none"  # torch's own layers may be turned into this class, and never see its `__init__`

    def __init__(self, in_features: int, out_features: int, bias: bool = True, activation: str = "none") -> None:
        super().__init__(in_features, out_features, bias)
        self.activation = activation

    def forward(self, x: Float[Tensor, "*rows a"]) -> Float[Tensor, "*rows b"]:
        return linear(x, self.weight, self.bias, self.activation)


class Conv2d(nn.Conv2d):
    def forward(self, x: Float[Tensor, "B a H W"]) -> Float[Tensor, "B b h w"]:
        return super().forward(fitting(x, self.weight))


class LayerNorm(nn.LayerNorm):
    def forward(self, x: Float[Tensor, "*rows C"]) -> Float[Tensor, "*rows C"]:
        return F.layer_norm(full(x), self.normalized_shape, full(self.weight), full(self.bias), self.eps)


class GroupNorm(nn.GroupNorm):
    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return F.group_norm(full(x), self.num_groups, full(self.weight), full(self.bias), self.eps)
