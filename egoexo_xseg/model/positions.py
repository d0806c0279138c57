"""Where a place lies in a feature map, as sines that attention can compare."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor


@lru_cache(maxsize=32)
def sine_positions(hw: tuple[int, int], channels: int, device: torch.device) -> Float[Tensor, "T C"]:
    """DETR's code, in float32, one row per place: half of the channels for y, half for x, sine and cosine in turn.

    Made once per size, outside inference mode, so that training can use what prediction left behind.
    """
    with torch.inference_mode(False):
        pair = torch.arange(channels // 2, device=device) // 2  # sine and cosine share a wavelength
        wavelength = 10000.0 ** (2 * pair / (channels // 2))
        codes = []
        for size in hw:
            angle = torch.arange(1, size + 1, device=device) / (size + 1e-6) * 2 * math.pi
            phase = angle[:, None] / wavelength  # (size, C/2)
            codes.append(torch.stack([phase[:, 0::2].sin(), phase[:, 1::2].cos()], -1).flatten(1))  # (size, C/2)
        rows, columns = codes
        grid = torch.cat([rows[:, None].expand(-1, hw[1], -1), columns[None].expand(hw[0], -1, -1)], -1)
        return grid.flatten(0, 1)  # (H*W, C)
