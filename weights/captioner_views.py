"""Pictures of the sample world's objects for captioner-tiny: close-ups to learn from, whole frames to be scored on."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from egoexo_xseg.model.captioner import pad_square, show_object
from egoexo_xseg.world.draws import without_slivers, world_seed
from egoexo_xseg.world.render import render
from egoexo_xseg.world.scene import Scene, make_scene

SIDE = 128  # pixels of the square that the tower takes; an object fills two thirds of it
MEAN, DEVIATION = 0.45, 0.25
CELLS = 4  # a side: as many tokens as the tower makes of a square
SCENES = 70  # drawn at a time: about 900 close-ups
LEAST_PIXELS = 40  # of a thing to learn from
HALVES = ("stripes", "checks", "zigzag")
WIDTHS = {1.0: 448, 2160 / 3840: 796}  # of 448p frames, by the cameras' aspect


@dataclass(frozen=True, slots=True)
class CloseUp:
    """A thing with its surroundings: a JPEG, as frames are kept, the thing's packed mask, and its caption."""

    picture: bytes
    packed: UInt8[np.ndarray, " P"]
    hw: tuple[int, int]
    caption: str

    def decode(self) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
        mask = np.unpackbits(self.packed, count=self.hw[0] * self.hw[1]).reshape(self.hw)
        return from_jpeg(self.picture), mask.astype(bool)


def to_jpeg(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=95)
    return file.getvalue()


def from_jpeg(picture: bytes) -> UInt8[np.ndarray, "H W 3"]:
    return np.asarray(Image.open(io.BytesIO(picture)))


def draw_frames(kind: str, number: int) -> Iterator[tuple[Scene, UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]]:
    """A scene at one moment in 448p frames with their instances: the ego camera's, and two exo cameras'."""
    rng = np.random.default_rng(world_seed("captioner", f"{kind} moment", number))
    scene = make_scene(world_seed("captioner", kind, number), exo_cameras=2)
    second = float(rng.uniform(0, scene.duration))
    for camera in (scene.ego(second), *scene.exo):
        image, instances = render(scene.at(second), camera, (448, WIDTHS[camera.aspect]))
        yield scene, image, without_slivers(instances)


def close_up(mask: Bool[np.ndarray, "H W"]) -> tuple[slice, slice]:
    """What is kept of a frame: more than a captioner is shown, so that it can be varied."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    longer = max(np.ptp(rows), np.ptp(columns)) + 1
    reach = longer / 2 + max(0.35 * longer, 24)
    return tuple(
        slice(max(0, round((first + last) / 2 - reach)), round((first + last) / 2 + reach) + 1)
        for first, last in ((rows[0], rows[-1]), (columns[0], columns[-1]))
    )


def draw_close_ups(shard: int) -> Iterator[CloseUp]:
    """Everything that the frames of some scenes show, cut out."""
    for number in range(shard * SCENES, (shard + 1) * SCENES):
        for scene, image, instances in draw_frames("training", number):
            for label, thing in enumerate(scene.things, start=1):
                mask = instances == label
                if np.count_nonzero(mask) >= LEAST_PIXELS:
                    window = close_up(mask)
                    cut = mask[window]
                    yield CloseUp(to_jpeg(image[window]), np.packbits(cut), cut.shape, thing.caption)


def load_shard(run: Path, shard: int) -> list[CloseUp]:
    """A shard's close-ups, drawn if the run does not hold them yet."""
    path = run / f"crops-{shard:03d}.npz"
    if not path.exists():
        drawn = list(draw_close_ups(shard))
        partial = run / f".{shard}.partial.npz"
        np.savez(
            partial,
            pictures=np.frombuffer(b"".join(item.picture for item in drawn), np.uint8),
            ends=np.cumsum([len(item.picture) for item in drawn]),
            masks=np.concatenate([item.packed for item in drawn]),
            sizes=np.array([item.hw for item in drawn]),
            names=np.array([item.caption for item in drawn]),
        )
        os.replace(partial, path)
    with np.load(path) as file:
        pictures, ends, masks, sizes, names = (file[name] for name in ("pictures", "ends", "masks", "sizes", "names"))
    pictures = np.split(pictures, ends[:-1])
    masks = np.split(masks, np.cumsum((sizes.prod(1) + 7) // 8)[:-1])
    return [
        CloseUp(picture.tobytes(), mask, tuple(hw), str(name))
        for picture, mask, hw, name in zip(pictures, masks, sizes.tolist(), names, strict=True)
    ]


def vary(item: CloseUp, rng: np.random.Generator) -> tuple[UInt8[np.ndarray, "S S 3"], UInt8[np.ndarray, "C C"]]:
    """What a captioner would be shown: now and then smaller, cut off further, moved or mirrored.

    With it, which share of `CELLS` x `CELLS` cells the object fills, of 255.
    """
    image, mask = item.decode()
    if rng.random() < 0.3:
        scale = rng.uniform(0.67, 1)
        wh = tuple(round(side * scale) for side in reversed(item.hw))
        image = np.asarray(Image.fromarray(image).resize(wh, Image.Resampling.BILINEAR))
        mask = np.asarray(Image.fromarray(mask).resize(wh, Image.Resampling.NEAREST))
    if rng.random() < 0.06:
        image, mask = cut_off(image, mask, rng)
    shown = pad_square(show_object(image, mask), np.full(3, round(255 * MEAN), np.uint8))
    tinted = pad_square(show_object(np.zeros_like(image), mask), np.zeros(3, np.uint8)).any(2)
    part = rng.uniform(0.88, 1) * len(shown)
    left, top = rng.uniform(0, len(shown) - part, 2)
    box = (left, top, left + part, top + part)
    seen = np.asarray(Image.fromarray(shown).resize((SIDE, SIDE), Image.Resampling.BICUBIC, box))
    filled = Image.fromarray(np.uint8(255) * tinted)
    cells = np.asarray(filled.resize((CELLS, CELLS), Image.Resampling.BOX, box))
    return (seen[:, ::-1], cells[:, ::-1]) if rng.random() < 0.5 else (seen, cells)


def cut_off(
    image: UInt8[np.ndarray, "S S 3"], mask: Bool[np.ndarray, "S S"], rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
    """Up to a third of an object beyond the edge of the frame, at any of the four sides."""
    turn = int(rng.integers(4))
    image, mask = np.rot90(image, turn), np.rot90(mask, turn)
    rows = np.flatnonzero(mask.any(1))
    start = int(rows[0] + rng.uniform(0, 0.35) * (rows[-1] - rows[0]))
    image, mask = np.rot90(image[start:], -turn), np.rot90(mask[start:], -turn)
    return np.ascontiguousarray(image), np.ascontiguousarray(mask)


@dataclass(frozen=True, slots=True)
class Asked:
    """An object of a held-out take, as the captioner sees it; `share` is its mask's part of the whole frame.

    `halves` are the colours of a pattern that gives each as much of the surface, and it could be called by either.
    """

    take: int
    caption: str
    halves: tuple[str, ...]
    share: float
    shown: UInt8[np.ndarray, "_ _ 3"]


def draw_held_out(takes: range) -> Iterator[Asked]:
    """The things in whole 448p frames of takes that no training draws: one moment, ego and two exo cameras each."""
    for take in takes:
        for scene, image, instances in draw_frames("held-out", take):
            image = from_jpeg(to_jpeg(image))
            for label, thing in enumerate(scene.things, start=1):
                if (mask := instances == label).any():
                    halves = (thing.look.colour, thing.look.second) if thing.look.pattern in HALVES else ()
                    yield Asked(take, thing.caption, halves, float(mask.mean()), show_object(image, mask))
