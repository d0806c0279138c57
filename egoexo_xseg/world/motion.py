"""How things move: smooth tracks through key points, reaching hands, a wandering gaze."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

Point = Float64[np.ndarray, "3"]


@dataclass
class Track:
    """Places at rising times; between two keys the way is eased in and out, before and after them it rests."""

    keys: list[tuple[float, Point]] = field(default_factory=list)

    def add(self, second: float | int, point: Point) -> None:
        """Append a key; one that does not come later than the last takes its place."""
        while self.keys and self.keys[-1][0] >= second:
            self.keys.pop()
        self.keys.append((second, np.asarray(point, np.float64)))

    def at(self, second: float | int) -> Point:
        times = [time for time, _ in self.keys]
        after = int(np.searchsorted(times, second, side="right"))
        if after == 0:
            return self.keys[0][1]
        if after == len(self.keys):
            return self.keys[-1][1]
        (start, a), (end, b) = self.keys[after - 1], self.keys[after]
        share = (second - start) / (end - start)
        return a + (b - a) * (share * share * (3 - 2 * share))


@dataclass(frozen=True)
class Sway:
    """A small quasi-periodic motion around zero."""

    amplitude: Point
    phase: Float64[np.ndarray, "2 3"]
    rate: Float64[np.ndarray, "2 3"]

    def at(self, second: float | int) -> Point:
        wave = np.sin(2 * np.pi * (self.rate * second + self.phase))
        return self.amplitude * (0.65 * wave[0] + 0.35 * wave[1])


def draw_sway(amplitude: tuple[float, float, float], rate: tuple[float, float], rng: np.random.Generator) -> Sway:
    """Sway with frequencies in hertz drawn within `rate`."""
    return Sway(np.array(amplitude), rng.random((2, 3)), rng.uniform(*rate, (2, 3)))


def carry(hand: Track, thing: Track, start: float, way: tuple[Point, Point], grip: Point) -> float:
    """Let a hand take a thing from one place to another; returns when the hand is free again.

    `grip` is where the palm is, seen from the thing's foot.
    """
    here, there = way
    lift = np.array([0.0, 0.0, 0.13])
    rest = hand.at(start)
    middle = (here + there) / 2 + lift
    hand.add(start, rest)
    hand.add(start + 0.6, here + grip + lift / 2)
    hand.add(start + 0.9, here + grip)
    hand.add(start + 1.7, middle + grip)
    hand.add(start + 2.5, there + grip)
    hand.add(start + 2.8, there + grip + lift / 2)
    hand.add(start + 3.4, rest)
    thing.add(start + 0.9, here)
    thing.add(start + 1.7, middle)
    thing.add(start + 2.5, there)
    return start + 3.4
