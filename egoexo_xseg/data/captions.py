"""Captions of query objects: written by `xseg caption`, read wherever `--captions` is given."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from egoexo_xseg.errors import AnnotationError, XsegError

MAX_CAPTION = 1000
"""Characters; a noun phrase has a few dozen."""

Key = tuple[str, str, str, int | None]
"""Take, object, camera, frame; without a frame it stands for every frame."""


@dataclass(frozen=True, slots=True)
class Caption:
    """What an object looks like in one camera, at one frame or (None) at every frame.

    The rest says where it comes from: the captioner's whole `answer`, the frame that it was shown, and hashes of the
    mask, the model and the question. A file made by hand may leave it out.
    """

    take_uid: str
    object_id: str
    camera: str
    frame: int | None
    caption: str
    answer: str | None = None
    source_frame: int | None = None
    mask_hash: str | None = None
    model_revision: str | None = None
    prompt_hash: str | None = None

    @property
    def key(self) -> Key:
        return self.take_uid, self.object_id, self.camera, self.frame

    def to_line(self) -> str:
        """One line of JSON (docs/formats.md); half a surrogate pair, which UTF-8 cannot hold, stays escaped."""
        return json.dumps(asdict(self), ensure_ascii=False).encode("utf-8", "backslashreplace").decode()

    @classmethod
    def from_line(cls, line: str) -> Caption:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise AnnotationError("not a JSON object")
        names = [row.get(name) for name in ("take_uid", "object_id", "camera", "caption")]
        if not all(isinstance(value, str) for value in names):
            raise AnnotationError("a caption needs take_uid, object_id, camera and caption as text")
        for name in ("frame", "source_frame"):
            if row.get(name) is not None and type(row[name]) is not int:
                raise AnnotationError(f"{name} must be a whole number or null, found {row[name]!r}")
        origin = {name: row.get(name) for name in ("answer", "mask_hash", "model_revision", "prompt_hash")}
        for name, value in origin.items():
            if value is not None and not isinstance(value, str):
                raise AnnotationError(f"{name} must be text or null, found {value!r}")
        text = " ".join(names[3].encode("utf-8", "replace").decode().split())  # JSON can spell what is no character
        if not text or len(text) > MAX_CAPTION:
            raise AnnotationError(f"a caption must have 1 to {MAX_CAPTION} characters, found {len(text)}")
        return cls(*names[:3], row.get("frame"), text, source_frame=row.get("source_frame"), **origin)


def sort_key(key: Key) -> tuple[str, str, str, int]:
    """The order of captions in a file."""
    return *key[:3], -1 if key[3] is None else key[3]


def iter_captions(path: Path) -> Iterator[tuple[str, Caption]]:
    """A file's captions, each with its place; the first faulty line is named."""
    try:
        lines = path.read_text("utf-8").split("\n")  # not splitlines(): JSON may hold U+2028
    except (OSError, UnicodeDecodeError):
        raise AnnotationError("not readable as text", where=path) from None
    for number, line in enumerate(lines, 1):
        if line:
            where = f"{path}, line {number}"
            try:
                yield where, Caption.from_line(line)
            except AnnotationError as fault:
                raise AnnotationError(fault.problem, where=where) from None


class Captions:
    """What a query object looks like, by take, object, camera and frame; a null frame stands for every frame."""

    def __init__(self, captions: Mapping[Key, str]) -> None:
        self._captions = dict(captions)

    def __len__(self) -> int:
        return len(self._captions)

    def items(self) -> Iterable[tuple[Key, str]]:
        return self._captions.items()

    def of(self, take_uid: str, object_id: str, camera: str, frame: int) -> str | None:
        own = self._captions.get((take_uid, object_id, camera, frame))
        return self._captions.get((take_uid, object_id, camera, None)) if own is None else own

    @property
    def hash(self) -> str:
        """Of what `of` answers, wherever it was read from."""
        rows = sorted(self._captions.items(), key=lambda row: sort_key(row[0]))
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    @classmethod
    def read(cls, path: Path, take_uids: Sequence[str] = ()) -> Captions:
        """Read one JSON object a line (docs/formats.md), from a file or from every `*.jsonl` of a folder (shards).

        Captions that speak of none of `take_uids`, if any are given, are refused: they would go by unnoticed.
        """
        files = [path]
        if path.is_dir():
            files = sorted(file for file in path.glob("*.jsonl") if not file.name.startswith("."))
            if not files:
                raise AnnotationError("no captions here (*.jsonl)", where=path, remedy="Run xseg caption")
        captions: dict[Key, str] = {}
        for file in files:
            for where, caption in iter_captions(file):
                if captions.setdefault(caption.key, caption.caption) != caption.caption:
                    raise AnnotationError("another caption of the same object, camera and frame", where=where)
        if take_uids and not {key[0] for key in captions} & set(take_uids):
            raise AnnotationError("no captions of these takes", where=path, remedy="Were they made for another split?")
        return cls(captions)

    def shuffled(self, seed: int) -> Captions:
        """Every caption replaced by another object's, to see what captions are worth; the same for the same seed.

        The objects of one view exchange theirs, so that each text is used once and none comes back to where it was,
        as far as they differ. What is left over gets a different text from elsewhere in the take, or, for want of
        one, from another take.
        """
        views: dict[tuple[str, str, int | None], list[Key]] = {}
        for key in self._captions:
            views.setdefault((key[0], *key[2:]), []).append(key)
        donors = _Donors(self._captions)
        shuffled: dict[Key, str] = {}
        for keys in views.values():
            texts = Counter(self._captions[key] for key in keys)
            # Like texts side by side, then turned past the largest such group.
            keys.sort(key=lambda key: (_draw(seed, key[0], self._captions[key]), _draw(seed, *key[:2])))
            turn = max(texts.values()) % len(keys)
            for key, other in zip(keys, keys[turn:] + keys[:turn], strict=True):
                text = self._captions[other]
                same = text == self._captions[key]
                shuffled[key] = donors.borrow(key, self._captions[key], _draw(seed, *key)) if same else text
        return Captions({key: shuffled[key] for key in self._captions})


class _Donors:
    """Whose captions could stand for an object's: texts with their objects, by take and over all."""

    def __init__(self, captions: Mapping[Key, str]) -> None:
        self._all: dict[str, set[tuple[str, str]]] = {}
        self._by_take: dict[str, dict[str, set[tuple[str, str]]]] = {}
        for key, text in sorted(captions.items(), key=lambda row: sort_key(row[0])):
            for owners in (self._all, self._by_take.setdefault(key[0], {})):
                owners.setdefault(text, set()).add(key[:2])
        self._texts = list(self._all)

    def borrow(self, key: Key, own: str, draw: int) -> str:
        """A text of another object: of this take if it differs, of any take if it differs, else the same text."""
        take = self._by_take[key[0]]
        for texts, owners in ((list(take), take), (self._texts, self._all)):
            for step in range(len(texts)):
                text = texts[(draw + step) % len(texts)]
                if text != own and _has_other(owners[text], key):
                    return text
        if _has_other(self._all[own], key):
            return own
        raise XsegError("captions of a single object cannot be shuffled")


def _has_other(owners: set[tuple[str, str]], key: Key) -> bool:
    return len(owners) > 1 or key[:2] not in owners


def _draw(seed: int, *words: str | int | None) -> int:
    """A number that looks random and depends on these words only, whatever else is in the file."""
    return int.from_bytes(hashlib.sha256(json.dumps([seed, *words]).encode()).digest()[:8])
