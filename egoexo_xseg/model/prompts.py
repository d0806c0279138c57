"""What the language model reads: words, image tokens, objects, captions and mask tokens, in the released order."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from egoexo_xseg.errors import CheckpointError, XsegError

SEG_TOKEN = "[SEG]"
PAD_TOKEN = "[PAD]"
END_TOKEN = "<|endoftext|>"

# The released code's placeholders; they never reach the tokenizer.
IMAGE, MASKS, OBJECT, CAPTIONS = -200, -201, -203, -204
MARKERS = {"<image>": IMAGE, "<seg>": MASKS, "<region>": OBJECT, "<refer>": CAPTIONS}

SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
TEMPLATE = (
    "[INST] <<SYS>>\n{system}\n<</SYS>>\n\n"
    "This is an image <image>, Please segment by given regions and instruction\n"
    "This is all regions:  {objects}.\nand this is the instruction: <refer>\n [/INST] \n[SEG]<seg> {tail}"
)

MAX_CAPTION = 1000
"""Characters of one caption; a noun phrase has some thirty."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One record's text as ids; negative ones are the places where embeddings go (`MARKERS`)."""

    ids: tuple[int, ...]
    caption_ids: tuple[int, ...]
    owners: tuple[int, ...]
    """Whose caption each of `caption_ids` belongs to: an object's number, or -1 for the closing [SEG]."""

    @property
    def num_objects(self) -> int:
        return self.ids.count(OBJECT)

    @property
    def opening(self) -> tuple[int, ...]:
        """What stands before the image: the same words in every prompt."""
        return self.ids[: self.ids.index(IMAGE)]


class PromptBuilder:
    """Writes prompts with a checkpoint's own tokenizer; captions are all it ever learns of an object."""

    def __init__(self, tokenizer: Tokenizer, tail: str = END_TOKEN) -> None:
        # Some are saved with what was done to the last batch that they saw.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer, self.tail = tokenizer, tail
        self.seg_id = _token_id(tokenizer, SEG_TOKEN)
        # Captions come from outside: "[SEG]" in one is six letters, not a signal.
        self._literal = Tokenizer.from_str(tokenizer.to_str())
        self._literal.encode_special_tokens = True

    def __reduce__(self) -> tuple[type[PromptBuilder], tuple[Tokenizer, str]]:
        """For other processes: a tokenizer that is sent there forgets what is literal."""
        return type(self), (self.tokenizer, self.tail)

    def build(self, captions: Sequence[str | None]) -> Prompt:
        """One object per entry, in order; a `None` is an object without a caption.

        The captioned objects' " {caption}." are joined and encoded at once, and [SEG] closes them. Without any caption
        the span holds [SEG] alone: the instruction names nothing, and the text vector is what [SEG] makes of the
        image and the objects before it.
        """
        if not captions:
            raise XsegError("a record needs at least one object")
        for caption in captions:
            if caption is not None and len(caption) > MAX_CAPTION:
                raise XsegError(f"a caption has {len(caption)} characters, at most {MAX_CAPTION} are allowed")
        # Arguments that are no UTF-8 come with lone surrogates, which tokenizers cannot take.
        captions = [own if own is None else own.encode("utf-8", "replace").decode() for own in captions]
        text = TEMPLATE.format(system=SYSTEM, objects=", ".join(["<region>"] * len(captions)), tail=self.tail)
        ids = self._encode_pieces(text)
        sentences = ["" if caption is None else f" {caption}." for caption in captions]
        encoded = self._literal.encode("".join(sentences), add_special_tokens=False)
        ends = np.cumsum([len(sentence) for sentence in sentences])
        owners = np.searchsorted(ends, [start for start, _ in encoded.offsets], side="right")
        return Prompt(tuple(ids), (*encoded.ids, self.seg_id), (*owners.tolist(), -1))

    def _encode_pieces(self, text: str) -> list[int]:
        """The released tokenisation: the text between two markers is encoded by itself."""
        ids: list[int] = []
        for piece in re.split(f"({'|'.join(MARKERS)})", text):
            marker = MARKERS.get(piece)
            ids += self.tokenizer.encode(piece, add_special_tokens=False).ids if marker is None else [marker]
        return ids

    def save(self, folder: Path) -> None:
        self.tokenizer.save(str(folder / "tokenizer.json"))

    @classmethod
    def load(cls, folder: Path) -> PromptBuilder:
        """From `tokenizer.json`, or from the `vocab.json` and `merges.txt` of the released folders."""
        path = folder / "tokenizer.json"
        try:
            builder = cls(Tokenizer.from_file(str(path)) if path.is_file() else _read_codegen(folder))
            builder.build(["a cup"])
        except XsegError:
            raise
        except Exception as fault:  # tokenizers raises bare Exception for whatever its parser meets
            raise CheckpointError(f"the tokenizer cannot be used ({fault})", where=folder) from None
        return builder


def byte_tokenizer() -> Tokenizer:
    """One token per byte, then <|endoftext|>, [PAD] and [SEG]: the tokenizer of tiny models."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    # Byte-level BPE writes bytes as printable characters: those that are not, as the first free ones from 256 on.
    characters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    tokenizer = _byte_level(models.BPE({characters[byte]: byte for byte in range(256)}, []))
    tokenizer.add_special_tokens([END_TOKEN, PAD_TOKEN, SEG_TOKEN])
    return tokenizer


def word_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Byte-level BPE in which every word of the prompt and of `texts` is one token: the tokenizer of small models."""
    tokenizer = _byte_level(models.BPE())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1 << 16, min_frequency=1, initial_alphabet=alphabet, show_progress=False)
    prompt = TEMPLATE.format(system=SYSTEM, objects="<region>, <region>", tail="")
    tokenizer.train_from_iterator([*re.split("|".join(MARKERS), prompt), *texts], trainer)
    tokenizer.add_special_tokens([END_TOKEN, PAD_TOKEN, SEG_TOKEN])
    return tokenizer


def _read_codegen(folder: Path) -> Tokenizer:
    """Phi's tokenizer (CodeGen's byte-level BPE), which the released folders hold in its slow form only."""
    vocab, merges, added = (folder / name for name in ("vocab.json", "merges.txt", "added_tokens.json"))
    if not (vocab.is_file() and merges.is_file()):
        raise CheckpointError(
            "no tokenizer", where=folder, remedy="It needs tokenizer.json, or vocab.json and merges.txt"
        )
    tokenizer = _byte_level(models.BPE.from_file(str(vocab), str(merges)))
    tokenizer.add_special_tokens([END_TOKEN])
    extra = json.loads(added.read_text("utf-8")) if added.is_file() else {}
    for token, index in sorted(extra.items(), key=lambda item: item[1]):
        special = token in (SEG_TOKEN, PAD_TOKEN, END_TOKEN)
        tokenizer.add_tokens([AddedToken(token, special=special, normalized=False)])
        if tokenizer.token_to_id(token) != index:
            raise CheckpointError(f"token {token!r} should have id {index}", where=added)
    return tokenizer


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _token_id(tokenizer: Tokenizer, token: str) -> int:
    index = tokenizer.token_to_id(token)
    if index is None:
        raise CheckpointError(f"the tokenizer has no {token} token")
    return index


@dataclass(frozen=True)
class Layout:
    """Where everything of a batch stands in the language model's input, right-padded to the longest record.

    `rows` names, for each position, a row of the record's table [words, image tokens, objects, mask tokens, zero];
    `objects`, `masks`, `captions` and `own_captions` are the spans read out afterwards, the last two as weights that
    average: all caption tokens with their closing [SEG], and each object's own (zeros for one without a caption).
    """

    words: Int64[Tensor, "B W"]
    rows: Int64[Tensor, "B L"]
    attended: Bool[Tensor, "B L"]
    objects: Int64[Tensor, "B K"]
    masks: Int64[Tensor, "B N"]
    captions: Float[Tensor, "B L"]
    own_captions: Float[Tensor, "B K L"]

    def after(self, length: int) -> Layout:
        """The rest of the input, without its first positions, where none of the spans may lie."""
        return Layout(
            self.words,
            self.rows[:, length:],
            self.attended[:, length:],
            (self.objects - length).clamp(min=0),  # padding stands at 0
            self.masks - length,
            self.captions[:, length:],
            self.own_captions[..., length:],
        )

    def to(self, device: torch.device) -> Layout:
        moved = {entry.name: getattr(self, entry.name).to(device, non_blocking=True) for entry in fields(self)}
        return Layout(**moved)


def lay_out(prompts: Sequence[Prompt], num_image_tokens: int, num_mask_tokens: int) -> Layout:
    """Turn prompts into one gather; all lengths are known here, so no device is asked for any."""
    num_words = max(sum(index >= 0 for index in prompt.ids) + len(prompt.caption_ids) for prompt in prompts)
    num_objects = max(prompt.num_objects for prompt in prompts)
    first_object = num_words + num_image_tokens
    first_mask = first_object + num_objects
    zero = first_mask + num_mask_tokens
    tables = {IMAGE: np.arange(num_words, first_object), MASKS: np.arange(first_mask, zero)}
    records = [_lay_out_record(prompt, tables, first_object) for prompt in prompts]
    length = max(len(rows) for _, rows, _ in records)

    words = np.zeros((len(prompts), num_words), np.int64)
    rows = np.full((len(prompts), length), zero)
    attended = np.zeros(rows.shape, bool)
    objects = np.zeros((len(prompts), num_objects), np.int64)
    masks = np.zeros((len(prompts), num_mask_tokens), np.int64)
    captions = np.zeros(rows.shape, np.float32)
    own_captions = np.zeros((len(prompts), num_objects, length), np.float32)
    for b, (own_words, own_rows, spans) in enumerate(records):
        words[b, : len(own_words)] = own_words
        rows[b, : len(own_rows)] = own_rows
        attended[b, : len(own_rows)] = True
        objects[b, : len(spans[OBJECT])] = spans[OBJECT]
        masks[b] = spans[MASKS]
        captions[b, spans[CAPTIONS]] = 1 / len(spans[CAPTIONS])
        owners = np.array(prompts[b].owners)
        for owner in set(prompts[b].owners) - {-1}:
            span = np.array(spans[CAPTIONS])[owners == owner]
            own_captions[b, owner, span] = 1 / len(span)
    return Layout(*map(torch.from_numpy, (words, rows, attended, objects, masks, captions, own_captions)))


def _lay_out_record(
    prompt: Prompt, tables: dict[int, np.ndarray], first_object: int
) -> tuple[list[int], np.ndarray, dict[int, list[int]]]:
    """One record's words, the table row at each of its positions, and the positions of each marker's content."""
    words: list[int] = []
    pieces: list[np.ndarray] = []
    spans: dict[int, list[int]] = {marker: [] for marker in MARKERS.values()}
    length = 0
    for index in prompt.ids:
        own = prompt.caption_ids if index == CAPTIONS else (index,) if index >= 0 else ()
        piece = np.arange(len(words), len(words) + len(own))
        words += own
        if index == OBJECT:
            piece = np.array([first_object + len(spans[OBJECT])])
        elif index in tables:
            piece = tables[index]
        if index < 0:
            spans[index] += range(length, length + len(piece))
        pieces.append(piece)
        length += len(piece)
    return words, np.concatenate(pieces), spans
