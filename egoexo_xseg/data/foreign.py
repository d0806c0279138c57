"""Answers of any other method: lists of masks in whatever form they are kept, or results files."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from egoexo_xseg.data.images import MAX_PIXELS, read_labels
from egoexo_xseg.data.pairs import Required
from egoexo_xseg.data.predictions import Key
from egoexo_xseg.data.submission import pair_key, read_submission
from egoexo_xseg.errors import MaskError, PredictionError, XsegError
from egoexo_xseg.files import file_digest
from egoexo_xseg.masks import Rle, mask_to_rle, resize_nearest, rle_area, rle_to_mask, rle_to_runs
from egoexo_xseg.records import Direction, Prediction, is_ego

NAMES = ("take_uid", "object_id", "query_camera", "target_camera")
FORMS = "pred_mask (run lengths), or mask (a PNG, NPY or NPZ file beside this one)"


Row = tuple[Path, str, Mapping[str, Any]]
"""An answer with its file and, for messages, its place."""


@dataclass
class ForeignAnswers:
    """Files of answers; `resized` and `judged` count masks of another size and confidences that were not given."""

    paths: Sequence[Path]
    rows: dict[tuple[Direction, str], list[Row]] = field(default_factory=dict)
    """Of lists, by direction and take."""
    results: dict[Direction, tuple[Path, dict[str, Any]]] = field(default_factory=dict)
    """Of results files, by direction: the file, and its takes."""
    resized: int = 0
    judged: int = 0

    @classmethod
    def read(cls, paths: Sequence[Path]) -> ForeignAnswers:
        """Files of one JSON object a line (`.jsonl`), or of results in the challenge's form or the official baselines'.

        The baselines write a file for each direction.
        """
        answers = cls(paths)
        for path in paths:
            if path.suffix == ".jsonl":
                answers._add_lines(path)
                continue
            for direction, takes in read_submission(path).items():
                other, _ = answers.results.setdefault(direction, (path, takes))
                if other != path:
                    raise PredictionError(f"{direction.value} is in {other} too", where=path)
        return answers

    def _add_lines(self, path: Path) -> None:
        for line in _read_lines(path):
            _, place, row = line
            names = [row.get(name) for name in NAMES]
            if not all(isinstance(name, str) for name in names) or type(row.get("frame")) is not int:
                raise PredictionError(f"an answer needs {', '.join(NAMES)} and frame", where=place)
            direction = Direction.EGO_EXO if is_ego(names[2]) else Direction.EXO_EGO
            self.rows.setdefault((direction, names[0]), []).append(line)

    @property
    def where(self) -> str:
        return ", ".join(map(str, self.paths))

    def way_to(self, direction: str) -> str:
        """How another direction gets in."""
        return f"Give a file with {direction} answers as another --from"

    def count(self, direction: Direction) -> int:
        """All answers of a direction, asked for or not."""
        _, takes = self.results.get(direction, (Path(), {}))
        listed = sum(len(rows) for (way, _), rows in self.rows.items() if way is direction)
        return listed + sum(_count_results(entry) for entry in takes.values())

    def origin(self) -> list[dict[str, str]]:
        """The files and their hashes, for the submission's manifest."""
        return [{"file": str(path), "sha256": file_digest(path)} for path in self.paths]

    def lost_shards(self, take_uids: Sequence[str]) -> list[tuple[Direction, str]]:
        """None that are known of."""
        return []

    @property
    def directions(self) -> list[Direction]:
        found = {direction for direction, _ in self.rows} | set(self.results)
        return [direction for direction in Direction if direction in found]

    def of_take(
        self, direction: Direction, take_uid: str, required: Required, scored_hw: Mapping[str, tuple[int, int]]
    ) -> dict[Key, Prediction]:
        """A take's answers, at the size that the scorer wants of each target camera.

        Masks of other sizes are brought to it as the scorer does it to the truth, by the nearest pixel. An answer
        without a confidence is taken for visible where its mask has a pixel at all.
        """
        found: dict[Key, Prediction] = {}
        for path, place, row in self._rows_of(direction, take_uid, required):
            try:
                rle, confidence = self._read_mask(path, row, scored_hw.get(row["target_camera"])), row.get("confidence")
            except XsegError as fault:
                raise PredictionError(
                    fault.problem, where=f"{place}: {fault.where}" if fault.where else place
                ) from None
            if isinstance(confidence, list) and len(confidence) == 1:  # an array of one number, as some write it
                (confidence,) = confidence
            if confidence is None:
                self.judged += 1
                confidence = float(rle_area(rle) > 0)
            elif isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not 0 <= confidence <= 1:
                raise PredictionError(f"confidence must be a number within 0 and 1, found {confidence!r}", where=place)
            names = [row[name] for name in NAMES]
            answer = Prediction(*names, row["frame"], rle, float(confidence), float(confidence), None)
            found[answer.key[1:]] = answer
        return found

    def _rows_of(self, direction: Direction, take_uid: str, required: Required) -> Iterator[Row]:
        """A take's answers; of a results file, those that are asked for.

        Camera names contain underscores, so that a pair's key cannot be taken apart: it is built, joined by one
        underscore as the challenge wants it, or by two as an official baseline writes it on its way.
        """
        yield from self.rows.get((direction, take_uid), ())
        path, takes = self.results.get(direction, (Path(), {}))
        entry = takes.get(take_uid)
        masks = entry.get("masks") if isinstance(entry, dict) else None
        for object_id, pairs in required.items():
            own = masks.get(object_id) if isinstance(masks, dict) else None
            for (query, target), frames in pairs.items() if isinstance(own, dict) else ():
                answers = own.get(pair_key(query, target), own.get(f"{query}__{target}"))
                for frame in frames if isinstance(answers, dict) else ():
                    answer = _read_result(answers.get(str(frame)))
                    if answer:
                        names = dict(zip(NAMES, (take_uid, object_id, query, target), strict=True))
                        place = f"{path}, take {take_uid}, object {object_id!r}, {query} to {target}, frame {frame}"
                        yield path, place, {"frame": frame, **answer, **names}

    def _read_mask(self, path: Path, row: Mapping[str, Any], hw: tuple[int, int] | None) -> Rle:
        if "pred_mask" in row:
            rle = Rle.from_json(row["pred_mask"])
            if hw in (None, rle.hw):
                rle_to_runs(rle)  # whoever made it may have spelt it wrong
                return rle
            mask = rle_to_mask(rle)
        elif isinstance(row.get("mask"), str):
            mask = _read_file(path.parent.resolve(), row["mask"], row.get("key"))
        else:
            raise MaskError(f"an answer needs {FORMS}")
        if hw not in (None, mask.shape):
            self.resized += 1
            mask = resize_nearest(mask, hw)
        return mask_to_rle(mask)


def _count_results(entry: Any) -> int:
    """Answers of a take in a results file."""
    masks = entry.get("masks") if isinstance(entry, dict) else None
    objects = masks.values() if isinstance(masks, dict) else ()
    pairs = [frames for own in objects if isinstance(own, dict) for frames in own.values() if isinstance(frames, dict)]
    return sum(_read_result(answer) is not None for frames in pairs for answer in frames.values())


def _read_result(answer: Any) -> dict[str, Any] | None:
    """What a results file says of one frame, whose mask may stand there by itself.

    None where there is no mask: baselines write an empty one, or none, for frames that they did not look at.
    """
    if isinstance(answer, dict) and "counts" in answer:
        answer = {"pred_mask": answer}
    mask = answer.get("pred_mask") if isinstance(answer, dict) else None
    size = mask.get("size") if isinstance(mask, dict) else None
    if not mask or (isinstance(size, list) and 0 in size):
        return None
    return {"pred_mask": mask, "confidence": answer.get("confidence")}


def _read_file(root: Path, name: str, key: object) -> Bool[np.ndarray, "H W"]:
    """A mask beside the list, in `root`; whatever is not 0 is the object."""
    try:
        path = (root / name).resolve()
    except ValueError:  # a NUL
        raise MaskError(f"{name!r} is no file's name") from None
    if not path.is_relative_to(root):
        raise MaskError(f"{name!r} is not beside this file")
    if not path.is_file():
        raise MaskError(f"no file {name!r}")
    if path.suffix == ".png":
        return read_labels(path) != 0
    if path.suffix in (".npy", ".npz"):
        return _read_array(path, key if isinstance(key, str) else None)
    raise MaskError(f"{name!r} is neither PNG nor NPY nor NPZ")


def _read_array(path: Path, key: str | None) -> Bool[np.ndarray, "H W"]:
    """An array of a NumPy file, its size looked at before anything is allocated; nothing is unpickled."""
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                return _read_npy(file)
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if key is None and len(names) != 1:
                raise MaskError(f"{len(names)} arrays, and no key says which", where=path)
            if key is not None and key not in names:
                raise MaskError(f"no array {key!r}", where=path)
            with archive.open(f"{key or names[0]}.npy") as file:
                return _read_npy(file)
    except MaskError as fault:
        raise MaskError(fault.problem, where=path) from None
    except Exception:  # NumPy and zipfile pass on whatever they meet
        raise MaskError("not readable as a NumPy file", where=path) from None


def _read_npy(file: Any) -> Bool[np.ndarray, "H W"]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if len(shape) != 2 or dtype.kind not in "biuf" or not 0 < shape[0] * shape[1] <= MAX_PIXELS:
        raise MaskError(f"a mask must be a numeric array (height, width), found {dtype} of shape {shape}")
    content = file.read(shape[0] * shape[1] * dtype.itemsize)
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C") != 0


def _read_lines(path: Path) -> list[Row]:
    rows = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise PredictionError("an answer must be one JSON object a line", where=f"{path}, line {number}")
            rows.append((path, f"{path}, line {number}", row))
    return rows
