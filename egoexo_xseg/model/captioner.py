"""What a query object looks like, in words: LLaVA on the query view with the object's mask shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor
from transformers import GenerationConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.utils.logging import disable_progress_bar

from egoexo_xseg.errors import CheckpointError, MaskError
from egoexo_xseg.model.folders import hash_files
from egoexo_xseg.model.hub import WANTED, resolve_model

PROMPT = (
    "Name the object that is tinted green, in one short noun phrase with its own colour, texture and kind. "
    "The green tint is only a marker, not the colour of the object."
)
"""The question, for every object the same: it never says what the annotators called the object."""

FILES = (*WANTED, "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
FILES += ("preprocessor_config.json", "processor_config.json", "chat_template.json", "chat_template.jinja")
"""Of a repository, and what decides a folder's answers."""

LOCAL = {"local_files_only": True, "trust_remote_code": False}

MAX_NEW_TOKENS = 48
"""A noun phrase has about ten; sentences that go on are of no use."""

TINT = 0.3
"""Share of pure green inside the mask, as the authors blend it."""

MARGIN = 0.25
"""Of the object's longer side, left around it on all sides."""

LEAST_MARGIN = 16
"""Pixels: the smallest objects need more of their surroundings than of themselves."""

ASKED = f"{PROMPT} [tint {TINT}, margin {MARGIN}, at least {LEAST_MARGIN} pixels]"
"""All that decides an answer beside the picture, the mask and the model."""


def show_object(image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "h w 3"]:
    """The image cropped to an object and its surroundings, the object tinted green as the authors do.

    The crop is a square around the mask's box, cut off at the image's edges: large objects leave the image whole.
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not rows.size:
        raise MaskError("an object without a pixel cannot be shown")
    spans = [(int(side[0]), int(side[-1]) + 1) for side in (rows, columns)]
    longer = max(stop - start for start, stop in spans)
    reach = longer / 2 + max(MARGIN * longer, LEAST_MARGIN)
    window = tuple(
        slice(max(0, round((start + stop) / 2 - reach)), min(side, round((start + stop) / 2 + reach)))
        for (start, stop), side in zip(spans, mask.shape, strict=True)
    )
    shown, inside = image[window].copy(), mask[window]
    shown[inside] = np.round((1 - TINT) * shown[inside] + TINT * np.array([0.0, 255.0, 0.0])).astype(np.uint8)
    return shown


def pad_square(image: UInt8[np.ndarray, "h w 3"], colour: UInt8[np.ndarray, "3"]) -> UInt8[np.ndarray, "S S 3"]:
    """The image in the middle of a square, as LLaVA was trained: its processor would cut off the longer side's ends."""
    height, width = image.shape[:2]
    side = max(height, width)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = colour
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square


class Captioner:
    """A LLaVA that answers `PROMPT`; `revision` says which: the Hub's commit, or a hash over the folder's files."""

    def __init__(self, model: LlavaForConditionalGeneration, processor: LlavaProcessor, revision: str) -> None:
        self.model, self.processor, self.revision = model.eval(), processor, revision
        self._mean_colour = np.round(255 * np.array(processor.image_processor.image_mean)).astype(np.uint8)
        self.question = self._tokenize()
        tokenizer, ends = processor.tokenizer, model.generation_config.eos_token_id
        # Instead of whatever sampling the repository suggests: the same picture gets the same answer.
        model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
            eos_token_id=tokenizer.eos_token_id if ends is None else ends,
            pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        )

    @staticmethod
    def find(model: str | Path) -> tuple[Path, str]:
        """The folder and the revision of a captioner given as a folder, or as `owner/name` of the Hub."""
        folder = resolve_model(model, wanted=FILES)
        _check_type(folder)
        # A snapshot's folder bears the name of its commit.
        local = Path(model).is_dir()
        return folder, hash_files(path for name in FILES for path in folder.glob(name)) if local else folder.name

    @classmethod
    def load(
        cls, model: str | Path, *, device: str, dtype: torch.dtype, found: tuple[Path, str] | None = None
    ) -> Captioner:
        """The captioner that `find` finds, or has `found`: its files are gigabytes to hash.

        Only safetensors are read, and no code of the repository runs; a model that is not whole is refused.
        """
        folder, revision = found or cls.find(model)
        if not sys.stderr.isatty():
            disable_progress_bar()
        try:
            processor = LlavaProcessor.from_pretrained(folder, backend="pil", **LOCAL)
            llava, report = LlavaForConditionalGeneration.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **LOCAL
            )
            if lacking := sorted(report["missing_keys"]):
                raise CheckpointError(f"{len(lacking)} weights are missing: {lacking[0]}, ...", where=folder)
            return cls(llava.to(device), processor, revision)
        except CheckpointError:
            raise
        except Exception as fault:  # of many kinds: what it says matters more than which it is
            raise CheckpointError(f"no captioner can be loaded ({_first_line(fault)})", where=folder) from None

    @torch.inference_mode()
    def describe(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[str]:
        """One raw answer for each picture of `show_object`, from one batch; the same picture gets the same answer."""
        if not images:
            return []
        squares = [pad_square(image, self._mean_colour) for image in images]
        pixels = self.processor.image_processor(squares, return_tensors="pt")["pixel_values"]
        question = self.question.to(self.model.device).expand(len(images), -1)
        answers = self.model.generate(
            input_ids=question,
            attention_mask=torch.ones_like(question),
            pixel_values=pixels.to(self.model.device, self.model.dtype),
        )
        texts = self.processor.tokenizer.batch_decode(answers[:, question.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    @torch.inference_mode()
    def _tokenize(self) -> Int64[Tensor, "1 L"]:
        """The question with as many image tokens as an image takes: asked of the model, since not all processors know.

        Every picture is a square and every question the same, so a batch needs no padding.
        """
        tokenizer, image_token = self.processor.tokenizer, self.model.config.image_token_id
        black = self.processor.image_processor([np.zeros((64, 64, 3), np.uint8)], return_tensors="pt")["pixel_values"]
        features = self.model.get_image_features(black.to(self.model.device, self.model.dtype))
        count = len(getattr(features, "pooler_output", features)[0])
        if self.processor.chat_template:
            content = [{"type": "image"}, {"type": "text", "text": PROMPT}]
            turns = [{"role": "user", "content": content}]
            text = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        else:
            text = f"USER: {self.processor.image_token}\n{PROMPT} ASSISTANT:"
        ids = tokenizer(text)["input_ids"]
        if image_token not in ids:
            raise ValueError("the chat template leaves out the image")
        place = ids.index(image_token)
        return torch.tensor([ids[:place] + [image_token] * count + ids[place + 1 :]])


def _check_type(folder: Path) -> None:
    path = folder / "config.json"
    try:
        values = json.loads(path.read_bytes())
        kind = values.get("model_type") if isinstance(values, dict) else None
    except FileNotFoundError:
        raise CheckpointError("the file is missing", where=path) from None
    except (OSError, ValueError, RecursionError):
        raise CheckpointError("the file is not readable JSON", where=path) from None
    if kind != "llava":
        raise CheckpointError(f"model_type is {kind!r}, not 'llava'", where=path)


def _first_line(fault: Exception) -> str:
    return next(iter(str(fault).strip().splitlines()), type(fault).__name__)[:200]
