"""The scores of the shipped weights on sample takes that no training ever saw, beside two baselines.

    python benchmarks/scores.py --out scores

Makes the takes, prepares them, captions every query object, predicts both directions with and without captions, and
scores as the challenge does, with 95% bootstrap intervals over takes. Writes OUT/scores.json; what OUT already holds is
not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Int64, UInt8

from egoexo_xseg.data.annotations import Annotations, Take, open_annotations
from egoexo_xseg.data.images import frame_path, read_image
from egoexo_xseg.data.metrics import score_masks
from egoexo_xseg.data.pairs import iter_pairs
from egoexo_xseg.data.predictions import read_take_predictions
from egoexo_xseg.files import written_whole
from egoexo_xseg.jobs.caption import CaptionOptions, caption
from egoexo_xseg.jobs.evaluate import Evaluation, evaluate
from egoexo_xseg.jobs.pack import pack
from egoexo_xseg.jobs.predict import PredictOptions, predict
from egoexo_xseg.jobs.prepare import prepare
from egoexo_xseg.jobs.report import score_intervals
from egoexo_xseg.jobs.sample import write_sample
from egoexo_xseg.masks import Rle, mask_to_rle, resize_nearest, rle_to_mask, scored_hw
from egoexo_xseg.records import Direction, Pair, PairObject, Prediction
from egoexo_xseg.world.paint import COLOURS

WEIGHTS = Path(__file__).parents[1] / "weights"
SPLIT = "val"

Image, Mask = UInt8[np.ndarray, "_ _ 3"], Bool[np.ndarray, "_ _"]
Guess = Callable[[Image, Image, Rle, tuple[int, int]], Mask]
"""Query image, target image, query mask and wanted size to a mask."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=WEIGHTS / "xseg-tiny")
    parser.add_argument("--captioner", type=Path, default=WEIGHTS / "captioner-tiny")
    parser.add_argument("--seed", type=int, default=1001)
    parser.add_argument("--takes", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("scores"))
    options = parser.parse_args()
    data = make_takes(options.out, options.seed, options.takes)
    annotations, captions = open_annotations(data, split=SPLIT), options.out / "captions.jsonl"
    caption(CaptionOptions(data, captions, str(options.captioner), split=SPLIT, device="cpu"))
    guesses: dict[str, Guess] = {"copied in place": copied, "colour of segments": coloured}
    report: dict[str, Any] = {
        "model": scores_of_model(options, annotations, None, options.out / "predictions"),
        "model, captions": scores_of_model(options, annotations, captions, options.out / "predictions-captions"),
    }
    for name, guess in guesses.items():
        folder = options.out / name.replace(" ", "-")
        write_guesses(annotations, guess, folder)
        report[name] = summary(score(folder, annotations))
    with written_whole(options.out / "scores.json") as file:
        json.dump(report, file, indent=1)
    print(json.dumps(report, indent=1))


def make_takes(out: Path, seed: int, takes: int) -> Path:
    """The prepared takes in `out`; a folder that holds others is left alone."""
    asked, path = {"seed": seed, "takes": takes}, out / "takes.json"
    if path.is_file() and json.loads(path.read_bytes()) != asked:
        raise SystemExit(f"{out} holds other takes: give another --out")
    with written_whole(path) as file:
        json.dump(asked, file)
    raw, data = out / "raw", out / "data"
    if not (raw / "split.json").is_file():
        write_sample(raw, seed=seed, takes=takes, split=SPLIT)
    prepare(raw, data, split=SPLIT)
    return data


def scores_of_model(
    options: argparse.Namespace, annotations: Annotations, captions: Path | None, folder: Path
) -> dict[str, Any]:
    data, model = options.out / "data", str(options.model)
    predict(PredictOptions(data, folder, None, model, split=SPLIT, captions=captions, device="cpu"))
    evaluation = score(folder, annotations)
    report = summary(evaluation)
    for direction in Direction:
        right, total = look_alikes(folder, annotations, direction)
        sizes = {row.name: round(row.iou, 4) for row in evaluation.tables(direction)["object size"]}
        report[direction.value] |= {"look_alikes": {"right": right, "of": total}, "iou_by_size": sizes}
    return report


def score(folder: Path, annotations: Annotations) -> Evaluation:
    submission = folder / "submission.json"
    pack(folder, annotations, submission)
    return evaluate([submission], annotations)


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """Scores by direction, each with its interval."""
    report: dict[str, Any] = {}
    for direction, samples in evaluation.samples.items():
        scores = {
            name: found and dict(zip(("value", "low", "high"), found, strict=True))
            for name, found in score_intervals(samples).items()
        }
        pairs = {(s.take_uid, s.query_camera, s.target_camera, s.frame) for s in samples}
        report[direction.value] = {**scores, "samples": len(samples), "pairs": len(pairs)}
    return report


def look_alikes(folder: Path, annotations: Annotations, direction: Direction) -> tuple[int, int]:
    """How often the right object is answered where another one of its colour is in the target frame, and of how many.

    Right is an answer that overlaps its own object, more than any other. Names tell the colour: only here.
    """
    right = total = 0
    for take in annotations:
        found = read_take_predictions(folder, direction, take.take_uid)
        for pair in iter_pairs(take, direction):
            truths = {item.object_id: item.target_mask for item in pair.objects if item.target_mask is not None}
            for item in pair.objects:
                alike = [other for other in truths if colour(other) == colour(item.object_id) != ""]
                if item.object_id not in truths or len(alike) < 2:
                    continue
                answer = found[item.object_id, pair.query_camera, pair.target_camera, pair.frame].mask
                scores = score_masks(list(truths.values()), [answer] * len(truths))
                ious = {other: own.iou for other, own in zip(truths, scores, strict=True)}
                total += 1
                right += ious[item.object_id] > 0 and ious[item.object_id] == max(ious.values())
    return right, total


def colour(object_id: str) -> str:
    word = object_id.strip().lower().split(" ")[0]
    return word if word in COLOURS else ""


def write_guesses(annotations: Annotations, guess: Guess, folder: Path) -> None:
    """A baseline's predictions, every object said to be visible."""
    for direction in Direction:
        (folder / direction.value).mkdir(parents=True, exist_ok=True)
        for take in annotations:
            path = folder / direction.value / f"{take.take_uid}.jsonl"
            if not path.is_file():
                with written_whole(path) as file:
                    file.writelines(prediction.to_line() + "\n" for prediction in iter_guesses(take, direction, guess))


def iter_guesses(take: Take, direction: Direction, guess: Guess) -> Iterator[Prediction]:
    for pair in iter_pairs(take, direction):
        query, target = (
            read_image(frame_path(take.folder, camera, pair.frame))
            for camera in (pair.query_camera, pair.target_camera)
        )
        for item in pair.objects:
            mask = guess(query, target, item.query_mask, scored_hw(pair.target_hw))
            yield prediction_of(pair, item, mask)


def prediction_of(pair: Pair, item: PairObject, mask: Mask) -> Prediction:
    place = (pair.take_uid, item.object_id, pair.query_camera, pair.target_camera, pair.frame)
    return Prediction(*place, mask=mask_to_rle(mask), visibility=1.0, score=1.0, margin=1.0)


def copied(query: Image, target: Image, mask: Rle, hw: tuple[int, int]) -> Mask:
    """The query mask at the same place of the other image."""
    return resize_nearest(rle_to_mask(mask), hw)


def coloured(query: Image, target: Image, mask: Rle, hw: tuple[int, int]) -> Mask:
    """The segment of the target image whose colours are most like those under the query mask."""
    under = resize_nearest(rle_to_mask(mask), query.shape[:2])
    labels, histograms = segments(target.tobytes(), target.shape)
    if not under.any() or not histograms:
        return np.zeros(hw, bool)
    wanted = np.bincount(bins(query[under]), minlength=512) / under.sum()
    best = max(histograms, key=lambda label: np.minimum(wanted, histograms[label]).sum())
    return resize_nearest(labels == best, hw)


def bins(pixels: UInt8[np.ndarray, "N 3"]) -> Int64[np.ndarray, " N"]:
    """Each pixel's place among 8 x 8 x 8 colours."""
    return (pixels // 32).astype(np.int64) @ np.array([64, 8, 1])


@lru_cache(maxsize=8)
def segments(pixels: bytes, shape: tuple[int, ...]) -> tuple[Int64[np.ndarray, "H W"], dict[int, np.ndarray]]:
    """Connected places of one colour after mean-shift smoothing, small gaps closed: a map, and their histograms."""
    image = np.frombuffer(pixels, np.uint8).reshape(shape)
    lab = cv2.cvtColor(cv2.pyrMeanShiftFiltering(image, 8, 24), cv2.COLOR_RGB2LAB).astype(np.int64)
    keys = (lab[..., 0] // 48) * 10_000 + (lab[..., 1] // 20) * 100 + lab[..., 2] // 20
    labels, count = np.zeros(keys.shape, np.int64), 0
    for key in np.unique(keys):
        inside = cv2.morphologyEx((keys == key).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
        number, own = cv2.connectedComponents(inside)
        free = (own > 0) & (labels == 0)
        labels[free] = own[free] + count
        count += number
    table = np.zeros((count + 1, 512))
    np.add.at(table, (labels.ravel(), bins(image.reshape(-1, 3))), 1)
    areas = table.sum(1)
    chosen = np.flatnonzero((areas > 0.0004 * labels.size) & (areas < 0.1 * labels.size))
    return labels, {int(label): table[label] / areas[label] for label in chosen if label}


if __name__ == "__main__":
    main()
