"""Colours, patterns and grains of the sample world's surfaces."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float32

Colour = tuple[float, float, float]
"""Linear red, green and blue: the share of light that comes back."""

COLOURS: dict[str, Colour] = {
    "red": (0.62, 0.035, 0.035),
    "orange": (0.86, 0.25, 0.025),
    "yellow": (0.88, 0.58, 0.045),
    "green": (0.06, 0.33, 0.07),
    "teal": (0.02, 0.36, 0.36),
    "blue": (0.035, 0.12, 0.58),
    "purple": (0.25, 0.06, 0.46),
    "pink": (0.86, 0.24, 0.40),
    "brown": (0.22, 0.095, 0.04),
    "white": (0.82, 0.81, 0.78),
    "grey": (0.26, 0.27, 0.29),
    "black": (0.022, 0.022, 0.026),
}
PATTERNS = {"plain": "plain", "stripes": "striped", "checks": "checked", "dots": "dotted", "zigzag": "zigzag"}
"""Each pattern with its adjective."""

STEEL: Colour = (0.55, 0.56, 0.58)


@dataclass(frozen=True, slots=True)
class Paint:
    """How a surface looks; `period` is the pattern's repeat in metres, `upright` turns its stripes."""

    colour: Colour
    second: Colour = (0.8, 0.8, 0.78)
    pattern: str = "plain"
    period: float = 0.05
    upright: bool = False
    gloss: float = 0.15
    metal: float = 0.0


def blend(pattern: str, u: Float[np.ndarray, " N"], v: Float[np.ndarray, " N"]) -> Float32[np.ndarray, " N"]:
    """Share of the second colour at surface places given in periods; edges are a little soft."""
    if pattern == "stripes":
        edge = _wave(v)
    elif pattern == "checks":
        edge = _wave(u) * _wave(v) * 2.5
    elif pattern == "zigzag":
        edge = _wave(v + np.float32(0.9) * np.abs(u - np.floor(u) - np.float32(0.5)))
    elif pattern == "dots":
        row = np.floor(v)
        shifted = u + np.float32(0.5) * (row - 2 * np.floor(row / 2))
        across, along = shifted - np.floor(shifted) - np.float32(0.5), v - row - np.float32(0.5)
        edge = np.float32(0.085) - (across * across + along * along)
    else:
        raise ValueError(pattern)
    return np.clip(edge * np.float32(12) + np.float32(0.5), 0, 1).astype(np.float32)


def _wave(u: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """A triangle wave of period 1 between -0.25 and 0.25."""
    return np.abs(u - np.floor(u) - np.float32(0.5)) - np.float32(0.25)


@dataclass(frozen=True, slots=True)
class Grain:
    """A repeating grey texture in [0, 1] with its halved copies, `metres` wide."""

    levels: tuple[Float32[np.ndarray, "_ _"], ...]
    metres: float

    def look_up(
        self, u: Float[np.ndarray, " N"], v: Float[np.ndarray, " N"], footprint: float
    ) -> Float32[np.ndarray, " N"]:
        """Values at places in metres, from the copy whose texels are about as large as a pixel's footprint."""
        size = self.levels[0].shape[0]
        level = min(max(int(np.log2(max(footprint / self.metres * size, 1.0)) + 0.5), 0), len(self.levels) - 1)
        texels = self.levels[level]
        side = texels.shape[0]
        x = u * np.float32(side / self.metres) + np.float32(1 << 20)
        y = v * np.float32(side / self.metres) + np.float32(1 << 20)
        column, row = x.astype(np.int32), y.astype(np.int32)
        fx, fy = (x - column).astype(np.float32), (y - row).astype(np.float32)
        flat = texels.ravel()
        mask = side - 1
        above, below = (row & mask) * side, ((row + 1) & mask) * side
        column, beside = column & mask, (column + 1) & mask
        top = flat[above + column] * (1 - fx) + flat[above + beside] * fx
        bottom = flat[below + column] * (1 - fx) + flat[below + beside] * fx
        return top * (1 - fy) + bottom * fy


@lru_cache(maxsize=8)
def grain(kind: str) -> Grain:
    """One of the world's few grains: wood, planks, tiles, stone, linen."""
    size = 512
    rng = np.random.default_rng(sorted(_GRAINS).index(kind))
    metres, draw = _GRAINS[kind]
    image = draw(size, rng)
    levels = [np.clip(image, 0, 1).astype(np.float32)]
    while levels[-1].shape[0] > 8:
        fine = levels[-1]
        half = fine.shape[0] // 2
        levels.append(fine.reshape(half, 2, half, 2).mean((1, 3)))
    return Grain(tuple(levels), metres)


def _clouds(size: int, rng: np.random.Generator, stretch: tuple[float, float], power: float = 1.5) -> np.ndarray:
    """Seamless noise around 0 of deviation 1, its spectrum falling with `power`."""
    fy, fx = np.fft.fftfreq(size)[:, None] * size * stretch[0], np.fft.rfftfreq(size)[None] * size * stretch[1]
    fall = 1 / np.maximum(np.hypot(fx, fy), 1) ** power
    fall[0, 0] = 0
    wave = np.fft.irfft2(fall * np.exp(2j * np.pi * rng.random(fall.shape)), s=(size, size))
    return wave / wave.std()


def _wood(size: int, rng: np.random.Generator) -> np.ndarray:
    """Rings that run along the first axis' rows, with fine fibres."""
    place = np.arange(size)[:, None] / size
    rings = np.sin(2 * np.pi * (9 * place + 0.55 * _clouds(size, rng, (1.0, 6.0), 1.8)))
    return 0.55 + 0.17 * rings + 0.07 * _clouds(size, rng, (0.35, 9.0), 0.9)


def _planks(size: int, rng: np.random.Generator) -> np.ndarray:
    """Boards of an eighth of the texture, offset lengthwise, with dark seams."""
    board = size // 8
    image = np.empty((size, size))
    for row in range(8):
        part = np.roll(_wood(size, rng), int(rng.integers(size)), 1)[row * board : (row + 1) * board] * 0.55 + 0.2
        start = int(rng.integers(size))
        part[:, (np.arange(size) - start) % size < size // 2] += rng.uniform(-0.12, 0.12)
        part += rng.uniform(-0.1, 0.1)
        part[:2] *= 0.45
        part[:, [start, (start + size // 2) % size]] *= 0.45
        image[row * board : (row + 1) * board] = part
    return image


def _tiles(size: int, rng: np.random.Generator) -> np.ndarray:
    side = size // 4
    tone = np.kron(rng.uniform(-0.05, 0.05, (4, 4)), np.ones((side, side)))
    image = 0.62 + tone + 0.05 * _clouds(size, rng, (1.0, 1.0))
    joint = np.arange(size) % side < 4
    image[joint] = image[:, joint] = 0.3
    return image


def _stone(size: int, rng: np.random.Generator) -> np.ndarray:
    veins = np.exp(-6 * np.abs(_clouds(size, rng, (1.0, 1.6), 1.9)))
    return 0.68 + 0.05 * _clouds(size, rng, (1.0, 1.0), 0.8) - 0.3 * veins * (rng.random() * 0.3 + 0.5)


def _linen(size: int, rng: np.random.Generator) -> np.ndarray:
    across, along = _clouds(size, rng, (0.1, 3.0), 0.6), _clouds(size, rng, (3.0, 0.1), 0.6)
    return 0.6 + 0.035 * (across + along)


_GRAINS = {
    "wood": (1.3, _wood),
    "planks": (1.2, _planks),
    "tiles": (1.6, _tiles),
    "stone": (1.6, _stone),
    "linen": (0.5, _linen),
}
