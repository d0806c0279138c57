"""Captions of query objects, as `xseg predict --captions` reads them."""

from __future__ import annotations

import json
from pathlib import Path

from egoexo_xseg.errors import AnnotationError

MAX_CAPTION = 1000
"""Characters; a noun phrase has a few dozen."""


class Captions:
    """What a query object looks like, by take, object, camera and frame; a null frame stands for every frame."""

    def __init__(self, captions: dict[tuple[str, str, str, int | None], str]) -> None:
        self._captions = captions

    def __len__(self) -> int:
        return len(self._captions)

    def of(self, take_uid: str, object_id: str, camera: str, frame: int) -> str | None:
        own = self._captions.get((take_uid, object_id, camera, frame))
        return self._captions.get((take_uid, object_id, camera, None)) if own is None else own

    @classmethod
    def read(cls, path: Path) -> Captions:
        """Read one JSON object a line (docs/formats.md); the first faulty line is named."""
        captions: dict[tuple[str, str, str, int | None], str] = {}
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            raise AnnotationError("not readable as text", where=path) from None
        for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], 1):
            try:
                key, caption = _read_line(line)
            except (ValueError, RecursionError) as fault:
                problem = str(fault) if type(fault) is ValueError else "not a JSON object"
                raise AnnotationError(problem, where=f"{path}, line {number}") from None
            captions[key] = caption
        return cls(captions)


def _read_line(line: str) -> tuple[tuple[str, str, str, int | None], str]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    take_uid, object_id, camera = (row.get(name) for name in ("take_uid", "object_id", "camera"))
    frame, caption = row.get("frame"), row.get("caption")
    if not all(isinstance(value, str) for value in (take_uid, object_id, camera, caption)):
        raise ValueError("a caption needs take_uid, object_id, camera and caption as text")
    if frame is not None and type(frame) is not int:
        raise ValueError(f"frame must be a whole number or null, found {frame!r}")
    text = " ".join(caption.encode("utf-8", "replace").decode().split())  # JSON can spell what is no character
    if not text or len(text) > MAX_CAPTION:
        raise ValueError(f"a caption must have 1 to {MAX_CAPTION} characters, found {len(text)}")
    return (take_uid, object_id, camera, frame), text
