"""From the coarsest image map to tokens of the language model."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from egoexo_xseg.model.precision import Conv2d, Linear, full


class ResidualBlock(nn.Module):
    """A residual block whose second convolution runs twice in a row.

    That is a slip of PSALM's code, but the released weights were trained with it and mean nothing without it.
    """

    def __init__(self, in_channels: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(in_channels, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = nn.Sequential(
            Conv2d(in_channels, planes, 1, stride=stride, bias=False), nn.BatchNorm2d(planes)
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B P h w"]:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(self.conv2(y)))
        return F.relu(full(y) + self.downsample(x))


class Projector(nn.Module):
    """Image tokens for the language model, `stride` times coarser than the map they come from."""

    def __init__(self, in_channels: int, planes: int, out_channels: int, stride: int = 2) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(ResidualBlock(in_channels, planes, stride))
        self.fc = Linear(planes, out_channels)

    def forward(self, coarsest: Float[Tensor, "B C H W"]) -> Float[Tensor, "B T D"]:
        """Tokens row by row, T = ceil(H / stride) * ceil(W / stride)."""
        x = self.layer1(coarsest)  # (B, P, h, w)
        return self.fc(x.flatten(2).transpose(1, 2))  # (B, T, D)
