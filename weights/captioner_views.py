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
from egoexo_xseg.world.camera import Camera, look_at
from egoexo_xseg.world.draws import without_slivers, world_seed
from egoexo_xseg.world.render import Moment, render
from egoexo_xseg.world.scene import make_scene

SIDE = 128  # pixels of the square that the tower takes; an object fills two thirds of it
MEAN, DEVIATION = 0.45, 0.25
CELLS = 4  # a side: as many tokens as the tower makes of a square
SCENES = 40  # drawn at a time: about 900 close-ups
HALVES = ("stripes", "checks", "zigzag")
WIDTHS = {1.0: 448, 2160 / 3840: 796}  # of 448p frames, by the cameras' aspect


@dataclass(frozen=True, slots=True)
class CloseUp:
    """A thing with its surroundings: a JPEG, as frames are kept, the thing's packed mask, and its caption."""

    picture: bytes
    packed: UInt8[np.ndarray, " P"]
    side: int
    caption: str

    def decode(self) -> tuple[UInt8[np.ndarray, "S S 3"], Bool[np.ndarray, "S S"]]:
        mask = np.unpackbits(self.packed, count=self.side**2).reshape(self.side, self.side)
        return from_jpeg(self.picture), mask.astype(bool)


def to_jpeg(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=95)
    return file.getvalue()


def from_jpeg(picture: bytes) -> UInt8[np.ndarray, "H W 3"]:
    return np.asarray(Image.open(io.BytesIO(picture)))


def close_up(
    moment: Moment, camera: Camera, label: int, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "S S 3"], Bool[np.ndarray, "S S"]] | None:
    """A thing about as large as a 448p frame of this camera shows it, or None where it hides.

    A narrow camera turned to the thing sees what a cut-out of the whole frame would show, at a fraction of the cost.
    """
    corners = moment.corners[moment.labels[:-1] == label].reshape(-1, 3)
    if (camera.see(corners)[:, 2] < 0.15).any():
        return None
    aim = look_at(camera.position, (corners.min(0) + corners.max(0)) / 2, roll=float(rng.normal(0, 0.1)))
    seen = Camera(camera.position, aim, 1.0, 1.0).see(corners)
    extent = np.ptp(seen[:, :2] / seen[:, 2:], axis=0).max()
    pixels = extent / (2 * camera.half_width) * WIDTHS[camera.aspect] * np.exp(rng.uniform(-0.4, 0.4))
    pixels = min(pixels, 1.5 * SIDE / 1.7)  # a little more than the tower takes
    window = pixels + 2 * max(0.35 * pixels, 24)
    narrow = Camera(camera.position, aim, extent / 2 * window / pixels, 1.0, camera.gain, camera.worn)
    image, instances = render(moment, narrow, (round(window), round(window)))
    mask = instances == label
    return (image, mask) if np.count_nonzero(mask) >= 80 else None


def draw_close_ups(shard: int) -> Iterator[CloseUp]:
    """Every thing of some scenes at one moment, as the ego camera and four exo cameras see it."""
    for number in range(shard * SCENES, (shard + 1) * SCENES):
        rng = np.random.default_rng(world_seed("captioner", "close-ups", number))
        scene = make_scene(world_seed("captioner", "training", number), exo_cameras=4)
        second = float(rng.uniform(0, scene.duration))
        moment = scene.at(second)
        for camera in (scene.ego(second), *scene.exo):
            for label, thing in enumerate(scene.things, start=1):
                if (shown := close_up(moment, camera, label, rng)) is not None:
                    yield CloseUp(to_jpeg(shown[0]), np.packbits(shown[1]), len(shown[1]), thing.caption)


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
            sides=np.array([item.side for item in drawn]),
            names=np.array([item.caption for item in drawn]),
        )
        os.replace(partial, path)
    with np.load(path) as file:
        pictures, ends, masks, sides, names = (file[name] for name in ("pictures", "ends", "masks", "sides", "names"))
    pictures = np.split(pictures, ends[:-1])
    masks = np.split(masks, np.cumsum((sides**2 + 7) // 8)[:-1])
    return [
        CloseUp(picture.tobytes(), mask, int(side), str(name))
        for picture, mask, side, name in zip(pictures, masks, sides, names, strict=True)
    ]


def vary(item: CloseUp, rng: np.random.Generator) -> tuple[UInt8[np.ndarray, "S S 3"], UInt8[np.ndarray, "C C"]]:
    """What a captioner would be shown: now and then smaller, cut by the frame's edge, moved or mirrored.

    With it, which share of `CELLS` x `CELLS` cells the object fills, of 255.
    """
    image, mask = item.decode()
    if rng.random() < 0.3:
        side = round(item.side * rng.uniform(0.67, 1))
        image = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
        mask = np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))
    if rng.random() < 0.12:
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
        rng = np.random.default_rng(world_seed("captioner", "held-out moment", take))
        scene = make_scene(world_seed("captioner", "held-out", take), exo_cameras=2)
        second = float(rng.uniform(0, scene.duration))
        for camera in (scene.ego(second), *scene.exo):
            width = WIDTHS[camera.aspect]
            image, instances = render(scene.at(second), camera, (448, width))
            image, instances = from_jpeg(to_jpeg(image)), without_slivers(instances)
            for label, thing in enumerate(scene.things, start=1):
                if (mask := instances == label).any():
                    halves = (thing.look.colour, thing.look.second) if thing.look.pattern in HALVES else ()
                    yield Asked(take, thing.caption, halves, float(mask.mean()), show_object(image, mask))
