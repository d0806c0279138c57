"""Swin, the image tower, as Mask2Former trained it: its parameter names and its padding, so that its weights fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from egoexo_xseg.model.precision import Conv2d, LayerNorm, Linear, full

BLOCKED = -100.0
"""Added to the scores between the two sides of a shifted map's seam; finite, as the weights met it in training."""


def split_windows(x: Shaped[Tensor, "B H W C"], window: int) -> Shaped[Tensor, "BM A C"]:
    """Cut a map, whose sides are multiples of `window`, into M windows of A = window * window places."""
    B, H, W, C = x.shape
    x = x.view(B, H // window, window, W // window, window, C).transpose(2, 3)
    return x.reshape(-1, window * window, C)  # (B*M, A, C)


# Tables that follow from sizes alone are no buffers: they are in no checkpoint, and a model may be made on the meta
# device. Made once per size, outside inference mode, so that training can use what prediction left behind.
@lru_cache(maxsize=8)
def position_index(window: int, device: torch.device) -> Int[Tensor, "A A"]:
    """For each pair of places in a window, the row of the bias table that belongs to their offset."""
    with torch.inference_mode(False):
        side = torch.arange(window, device=device)
        places = torch.cartesian_prod(side, side)  # (A, 2)
        offset = places[:, None] - places[None] + window - 1  # (A, A, 2)
        return offset[..., 0] * (2 * window - 1) + offset[..., 1]


@dataclass(frozen=True)
class Windows:
    """Where the places of a batch of maps lie in windows, those of a kind one after the other.

    To gather by it is one copy each way, where padding, rolling and cutting are three; and windows of a kind share
    their mask. Kinds are told by whether a window is the last of its row and of its column: only there does a cyclic
    shift bring strangers together.
    """

    into: Int[Tensor, " P"]
    """Rows of the batch's places, window by window; for padding, any row."""
    padding: Int[Tensor, " p"]
    """Which of them are padding."""
    back: Int[Tensor, " BHW"]
    """For each place of the batch, its row among them."""
    counts: tuple[int, ...]
    """Windows of each kind: four if the map is shifted, else one."""


@lru_cache(maxsize=128)
def cut_windows(batch: int, hw: tuple[int, int], window: int, shift: int, device: torch.device) -> Windows:
    """Maps are padded to whole windows, then shifted cyclically."""
    with torch.inference_mode(False):
        (H, W), (bottom, right) = hw, padding(hw, window)
        rows = torch.arange(H * W, dtype=torch.int32).view(1, H, W, 1)
        rows = F.pad(rows, (0, 0, 0, right, 0, bottom), value=-1)
        rows = split_windows(rows.roll((-shift, -shift), (1, 2)), window)[..., 0]  # (M, A)
        kinds = window_kinds(hw, window) if shift else torch.zeros(len(rows))  # (M)
        firsts = torch.arange(batch, dtype=torch.int32)[:, None, None] * (H * W)  # each map's first row
        parts = [
            torch.where(own < 0, own, own + firsts).flatten()
            for own in (rows[kinds == kind] for kind in range(4 if shift else 1))
        ]
        into = torch.cat(parts)  # (P)
        real = (into >= 0).nonzero()[:, 0].int()
        back = torch.empty_like(real)
        back[into[real]] = real
        tables = (into.clamp(min=0), (into < 0).nonzero()[:, 0].int(), back)
        return Windows(*(table.to(device) for table in tables), counts=tuple(len(own) // window**2 for own in parts))


def window_kinds(hw: tuple[int, int], window: int) -> Int[Tensor, " M"]:
    """For each window of a map: 0, plus 1 in the last column, plus 2 in the last row."""
    rows, columns = (torch.arange(-(-side // window)) for side in hw)
    return (2 * (rows == rows[-1])[:, None] + (columns == columns[-1])).flatten()


def padding(hw: tuple[int, int], window: int) -> tuple[int, int]:
    """Rows below and columns to the right that a map lacks to consist of whole windows."""
    return -hw[0] % window, -hw[1] % window


@lru_cache(maxsize=8)
def shift_masks(window: int, device: torch.device) -> Float[Tensor, "4 A A"]:
    """What keeps apart, in a window of each kind, places that only the cyclic shift made neighbours."""
    with torch.inference_mode(False):
        late = torch.arange(window, device=device) >= window - window // 2
        rows, columns = (places.flatten() for places in torch.meshgrid(late, late, indexing="ij"))  # 2 x (A)
        apart = [own[:, None] != own for own in (rows, columns)]  # 2 x (A, A)
        kinds = [torch.zeros_like(apart[0]), apart[1], apart[0], apart[0] | apart[1]]
        return torch.stack(kinds).float() * BLOCKED  # (4, A, A)


class WindowAttention(nn.Module):
    """Self-attention among the places of each window, biased by their offsets."""

    def __init__(self, width: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.num_heads = num_heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def bias(self) -> Float[Tensor, "heads A A"]:
        index = position_index(self.window_size, self.relative_position_bias_table.device)
        return self.relative_position_bias_table[index].permute(2, 0, 1).contiguous()  # (heads, A, A)

    def forward(self, x: Float[Tensor, "R C"], windows: Windows) -> Float[Tensor, "R C"]:
        """Attend within windows; `x` holds the places of all maps.

        Zeros fill the last windows, and are attended to like anything else: the released weights know them. What the
        projection makes of a zero is its bias.
        """
        A = self.window_size**2
        qkv = self.qkv(x).index_select(0, windows.into)  # (P, 3*C)
        qkv[windows.padding] = self.qkv.bias.to(qkv.dtype)
        bias = self.bias()[None]  # (1, heads, A, A)
        if len(windows.counts) > 1:
            bias = bias + shift_masks(self.window_size, x.device)[:, None].to(bias.dtype)  # (4, heads, A, A)
        kinds = qkv.view(-1, A, 3, self.num_heads, x.shape[1] // self.num_heads).split(windows.counts)
        attended = [self._attend(own, mask[None]) for own, mask in zip(kinds, bias, strict=True) if len(own)]
        x = torch.cat(attended) if len(attended) > 1 else attended[0]
        return self.proj(x.index_select(0, windows.back))  # (R, C)

    def _attend(self, qkv: Float[Tensor, "M A 3 heads d"], bias: Float[Tensor, "1 heads A A"]) -> Float[Tensor, "MA C"]:
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 x (M, heads, A, d)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return x.transpose(1, 2).reshape(-1, qkv.shape[3] * qkv.shape[4])


class Mlp(nn.Module):
    """Two layers with an exact GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, 4 * width, activation="gelu")
        self.fc2 = Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "*rows C"]) -> Float[Tensor, "*rows C"]:
        return self.fc2(self.fc1(x))


class Block(nn.Module):
    """Windowed attention, on a map shifted by half a window if `shifted`, and an MLP."""

    def __init__(self, width: int, num_heads: int, window_size: int, shifted: bool, drop_path_rate: float) -> None:
        super().__init__()
        self.window_size = window_size
        self.shift = window_size // 2 if shifted else 0
        self.drop_path_rate = drop_path_rate
        self.norm1 = LayerNorm(width)
        self.attn = WindowAttention(width, num_heads, window_size)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        x = x + self.drop_path(self.attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attend(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        B, H, W, C = x.shape
        windows = cut_windows(B, (H, W), self.window_size, self.shift, x.device)
        return self.attn(x.view(-1, C), windows).view(B, H, W, C)

    def drop_path(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        """Stochastic depth: in training, a branch is left out for some images and scaled up for the others."""
        if not self.training or self.drop_path_rate == 0:
            return x
        keep = 1 - self.drop_path_rate
        return x * x.new_empty(len(x), 1, 1, 1).bernoulli_(keep).div_(keep)


class PatchMerging(nn.Module):
    """Halve the map and double its width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = LayerNorm(4 * width)
        self.reduction = Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B h w 2*C"]:
        _, H, W, _ = x.shape
        x = F.pad(x, (0, 0, 0, W % 2, 0, H % 2))
        quarters = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]  # column by column, as released
        return full(self.reduction(self.norm(torch.cat(quarters, -1))))


class Stage(nn.Module):
    """Blocks of one width, every second one shifted; all stages but the last end by merging patches."""

    def __init__(
        self, width: int, num_heads: int, window_size: int, drop_path_rates: Sequence[float], last: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, num_heads, window_size, shifted=index % 2 == 1, drop_path_rate=rate)
            for index, rate in enumerate(drop_path_rates)
        )
        self.downsample = None if last else PatchMerging(width)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        for block in self.blocks:
            x = block(x)
        return x


class PatchEmbedding(nn.Module):
    """Cut the image into patches, zeros filling the last ones, and embed each."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = Conv2d(3, width, patch_size, stride=patch_size)
        self.norm = LayerNorm(width)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B h w C"]:
        _, _, H, W = images.shape
        images = F.pad(images, (0, -W % self.patch_size, 0, -H % self.patch_size))
        return self.norm(self.proj(images).permute(0, 2, 3, 1))  # (B, h, w, C)


class Swin(nn.Module):
    """Images to four feature maps.

    Window and shift are never reduced for small maps and padded places are never masked: as the released weights
    were trained, and unlike other Swins.
    """

    def __init__(
        self,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int,
        patch_size: int = 4,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(embed_dim, patch_size)
        total, last = sum(depths), len(depths) - 1
        rates = iter([drop_path_rate * index / max(total - 1, 1) for index in range(total)])  # rising linearly from 0
        self.layers = nn.ModuleList(
            Stage(embed_dim * 2**stage, heads, window_size, [next(rates) for _ in range(depth)], last=stage == last)
            for stage, (depth, heads) in enumerate(zip(depths, num_heads, strict=True))
        )
        for stage in range(len(depths)):
            self.add_module(f"norm{stage}", LayerNorm(embed_dim * 2**stage))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B _ _ _"], ...]:
        """Maps res2 to res5: strides patch * 1, 2, 4, 8, each through a norm of its own."""
        x = self.patch_embed(images)  # (B, H, W, C)
        maps = []
        for stage, layer in enumerate(self.layers):
            x = layer(x)
            maps.append(self.get_submodule(f"norm{stage}")(x).permute(0, 3, 1, 2))  # (B, C, H, W)
            x = x if layer.downsample is None else layer.downsample(x)
        return tuple(maps)
