"""ObjectRelator's own lists: one JSON array of records, each of two pictures, the masks in both, and texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from unicodedata import normalize

from egoexo_xseg.data.annotations import MAX_FRAME, NAME
from egoexo_xseg.data.captions import MAX_CAPTION
from egoexo_xseg.errors import AnnotationError, MaskError, XsegError
from egoexo_xseg.files import load_json
from egoexo_xseg.masks import Rle, parse_together, rle_area, rle_to_runs
from egoexo_xseg.records import is_ego

MAX_NUMBER = 10_000
"""Objects of a take; a recording has some ten."""

MAX_PATH = 1000
"""Characters of a picture's name."""

TOGETHER = 500
"""Records whose masks are checked at a time."""

PICTURE = re.compile(r"([0-9]{1,8})\.jpg")


@dataclass(frozen=True, slots=True)
class Record:
    """One moment seen by two cameras; objects go by their number, masks have the size of their picture.

    `captions` are of the query objects, by number too. Where it was read from a list, `images` are the pictures of
    query and target, and `where` is its place, for messages.
    """

    take_uid: str
    cameras: tuple[str, str]
    frame: int
    query_masks: Mapping[int, Rle]
    target_masks: Mapping[int, Rle]
    captions: Mapping[int, str] = field(default_factory=dict)
    images: tuple[Path, ...] = ()
    where: str = ""


def natural_order(names: Iterable[str]) -> list[str]:
    """Sorted with numbers by their value, as natsort does it: an object's number is its place in this order, from 1."""

    def key(name: str) -> list[Any]:
        parts = re.split("([0-9]+)", normalize("NFD", name))
        # Digits by length, then as text: their value may have thousands of them.
        return [(len(part.lstrip("0")), part.lstrip("0")) if odd % 2 else part for odd, part in enumerate(parts)]

    return sorted(names, key=key)


def read_records(path: Path, folder: Path) -> list[Record]:
    """All records of a list, whose pictures lie in `folder` or below; they need not be there.

    The first record that is wrong is an AnnotationError with its index.
    """
    rows = load_json(path, AnnotationError)
    if not isinstance(rows, list):
        raise AnnotationError("not a list of records", where=path, remedy="The raw release is given as its folder")
    root = folder.resolve()
    records = [_read_record(row, root, f"{path}, record {index}") for index, row in enumerate(rows)]
    for start in range(0, len(records), TOGETHER):
        _check_masks(records[start : start + TOGETHER])
    return records


def _check_masks(records: Sequence[Record]) -> None:
    """Check run lengths, of copies: a whole list's would fill gigabytes if each mask kept its own."""
    copies = [
        (record, Rle(rle.hw, rle.counts))
        for record in records
        for rle in (*record.query_masks.values(), *record.target_masks.values())
    ]
    parse_together([rle for _, rle in copies])
    for record, rle in copies:
        try:
            rle_to_runs(rle)
        except MaskError as fault:
            raise AnnotationError(fault.problem, where=record.where) from None


def _read_record(row: Any, root: Path, where: str) -> Record:
    try:
        if not isinstance(row, dict):
            raise AnnotationError("a record must be a JSON object")
        images = row.get("first_frame_image"), row.get("image")
        query, target = (_read_place(image) for image in images)
        if (query[0], query[2]) != (target[0], target[2]):
            raise AnnotationError(f"{images[0]} and {images[1]} are not of one moment of one take")
        if row.get("video_name", query[0]) != query[0]:
            raise AnnotationError(f"{images[0]} is not of take {str(row['video_name'])[:100]!r}")
        if is_ego(query[1]) == is_ego(target[1]):
            raise AnnotationError(f"{query[1]} and {target[1]} are not an ego and an exo camera")
        masks = [_read_masks(row.get(name), name) for name in ("first_frame_anns", "anns")]
        captions = _read_captions(row.get("instruction"), list(masks[0]))
        paths = tuple((root / image).resolve() for image in images)
        for image, path in zip(images, paths, strict=True):
            if not path.is_relative_to(root):
                raise AnnotationError(f"{image} leads out of {root}")
    except XsegError as fault:
        raise AnnotationError(fault.problem, where=where) from None
    return Record(query[0], (query[1], target[1]), query[2], *masks, captions, paths, where)


def _read_place(image: Any) -> tuple[str, str, int]:
    """Take, camera and frame of a picture `.../<take>/<camera>/<frame>.jpg`, whose path leads nowhere else."""
    parts = PurePosixPath(image).parts if isinstance(image, str) and len(image) <= MAX_PATH else ()
    found = PICTURE.fullmatch(parts[-1]) if len(parts) >= 3 else None
    if not found or not all(map(NAME.fullmatch, parts)) or str(int(found[1])) != found[1] or int(found[1]) > MAX_FRAME:
        raise AnnotationError(f"a picture must be <take>/<camera>/<frame>.jpg, found {repr(image)[:100]}")
    return parts[-3], parts[-2], int(found[1])


def _read_masks(rows: Any, name: str) -> dict[int, Rle]:
    if not isinstance(rows, list):
        raise AnnotationError(f"{name} must be a list")
    masks: dict[int, Rle] = {}
    for row in rows:
        number = row.get("category_id") if isinstance(row, dict) else None
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 1 <= number <= MAX_NUMBER:
            raise AnnotationError(f"{name}: category_id must be within 1 and {MAX_NUMBER}, found {str(number)[:100]}")
        if number != int(number) or int(number) in masks:
            raise AnnotationError(f"{name}: category_id {number} is not a whole number, or is there twice")
        masks[int(number)] = Rle.from_json(row.get("segmentation"))
    return masks


def _read_captions(rows: Any, numbers: list[int]) -> dict[int, str]:
    """The texts, one of each query object in their order; lists without texts have none."""
    if rows is None:
        return {}
    sentences = [row.get("sent") if isinstance(row, dict) else None for row in rows] if isinstance(rows, list) else []
    if len(sentences) != len(numbers):
        raise AnnotationError(f"instruction must be a list with a text of each of {len(numbers)} query objects")
    captions = {}
    for number, sentence in zip(numbers, sentences, strict=True):
        if not isinstance(sentence, str) or len(sentence) > MAX_CAPTION:
            raise AnnotationError(f"instruction: sent must be text of at most {MAX_CAPTION} characters")
        captions[number] = " ".join(sentence.split())
    return {number: sentence for number, sentence in captions.items() if sentence}


def record_to_json(record: Record, number: int, first_sentence: int) -> dict[str, Any]:
    """A record as the list's entry of this `number`; its sentences are numbered from `first_sentence`.

    Without captions there is no `instruction`, as before the captioner of that code.
    """
    query, target = (f"{record.take_uid}/{camera}/{record.frame}.jpg" for camera in record.cameras)
    height, width = next(iter(record.target_masks.values())).hw
    row = {
        "image": target,
        "image_info": {"file_name": target, "height": height, "width": width},
        "anns": _spell(record.target_masks),
        "first_frame_image": query,
        "first_frame_anns": _spell(record.query_masks),
        "new_img_id": number,
        "video_name": record.take_uid,
    }
    if record.captions:
        row["instruction"] = [
            {"tokens": text.split(), "raw": text, "sent_id": index, "sent": text}
            for index, text in enumerate((record.captions[each] for each in record.query_masks), first_sentence)
        ]
    return row


def _spell(masks: Mapping[int, Rle]) -> list[dict[str, Any]]:
    return [
        {"segmentation": rle.to_json(), "area": float(rle_area(rle)), "category_id": float(number)}
        for number, rle in masks.items()
    ]
