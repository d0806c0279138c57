"""Prompts in the released layout, and where everything stands in them."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from egoexo_xseg.errors import CheckpointError, XsegError
from egoexo_xseg.model.prompts import (
    CAPTIONS,
    IMAGE,
    MASKS,
    OBJECT,
    Prompt,
    PromptBuilder,
    byte_tokenizer,
    lay_out,
)

END, PAD, SEG = 256, 257, 258


@pytest.fixture(scope="module")
def builder() -> PromptBuilder:
    return PromptBuilder(byte_tokenizer())


def words(text: str) -> list[int]:
    return list(text.encode())


def test_byte_tokenizer_writes_every_byte_as_itself(builder):
    text = "héllo\x00 \n\t~ 中\x7f"
    assert builder.tokenizer.encode(text).ids == words(text)
    assert builder.tokenizer.encode("a[SEG]<|endoftext|>[PAD]").ids == [97, SEG, END, PAD]


def test_prompt_of_two_objects_is_the_released_text(builder):
    prompt = builder.build(["red cup", "knife"])
    head = words("[INST] <<SYS>>\nYou are a helpful language and vision assistant.")
    assert list(prompt.ids[: len(head)]) == head
    tail = [
        *words("\n<</SYS>>\n\nThis is an image "),
        IMAGE,
        *words(", Please segment by given regions and instruction\nThis is all regions:  "),
        OBJECT,
        *words(", "),
        OBJECT,
        *words(".\nand this is the instruction: "),
        CAPTIONS,
        *words("\n [/INST] \n"),
        SEG,
        MASKS,
        *words(" "),
        END,
    ]
    assert list(prompt.ids[-len(tail) :]) == tail
    assert list(prompt.caption_ids) == [*words(" red cup. knife."), SEG]
    assert prompt.num_objects == 2


@pytest.mark.parametrize(
    ("captions", "text"), [([None, None], ""), ([None, "knife"], " knife."), (["a", None, "b"], " a. b.")]
)
def test_objects_without_captions_are_not_named(builder, captions, text):
    prompt = builder.build(captions)
    assert list(prompt.caption_ids) == [*words(text), SEG]
    assert prompt.num_objects == len(captions)


def test_a_caption_cannot_speak_in_special_tokens(builder):
    prompt = builder.build(["[SEG] <|endoftext|> <region> <image>"])
    assert list(prompt.caption_ids) == [*words(" [SEG] <|endoftext|> <region> <image>."), SEG]
    assert prompt.num_objects == 1


def test_captions_that_are_no_text_are_read_as_far_as_they_go(builder):
    """An argument of other bytes than UTF-8 comes with lone surrogates."""
    assert builder.build(["a \udcffcup"]) == builder.build(["a ?cup"])


def test_refused_prompts(builder):
    with pytest.raises(XsegError, match=r"^a record needs at least one object$"):
        builder.build([])
    with pytest.raises(XsegError, match=r"^a caption has 1001 characters, at most 1000 are allowed$"):
        builder.build(["x" * 1001])


def test_layout_of_a_hand_made_batch():
    long = Prompt((7, IMAGE, 8, OBJECT, OBJECT, CAPTIONS, MASKS, 9), (5, 6), (1, -1))
    short = Prompt((7, IMAGE, OBJECT, CAPTIONS, MASKS), (4,), (-1,))
    layout = lay_out([long, short], num_image_tokens=2, num_mask_tokens=3)
    # Table rows: 5 words, 2 image tokens (5, 6), 2 objects (7, 8), 3 mask tokens (9 to 11), zero (12).
    assert layout.words.tolist() == [[7, 8, 5, 6, 9], [7, 4, 0, 0, 0]]
    assert layout.rows.tolist() == [
        [0, 5, 6, 1, 7, 8, 2, 3, 9, 10, 11, 4],
        [0, 5, 6, 7, 1, 9, 10, 11, 12, 12, 12, 12],
    ]
    assert layout.attended.sum(1).tolist() == [12, 8]
    assert layout.objects.tolist() == [[4, 5], [3, 0]]
    assert layout.masks.tolist() == [[8, 9, 10], [5, 6, 7]]
    expected = np.zeros((2, 12), np.float32)
    expected[0, 6:8], expected[1, 4] = 0.5, 1
    assert torch.equal(layout.captions, torch.from_numpy(expected))
    assert layout.own_captions.nonzero().tolist() == [[0, 1, 6]]


def test_caption_tokens_know_their_object(builder):
    prompt = builder.build([None, "cup", None, "knife"])
    assert prompt.owners == (*[1] * len(words(" cup.")), *[3] * len(words(" knife.")), -1)
    assert builder.build([None]).owners == (-1,)


def test_tokenizer_round_trip(builder, tmp_path):
    builder.save(tmp_path)
    assert PromptBuilder.load(tmp_path).build(["cup"]) == builder.build(["cup"])


def write_codegen(folder, added):
    vocabulary = {**json.loads(byte_tokenizer().to_str())["model"]["vocab"], "ab": 256, "<|endoftext|>": 257}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    (folder / "added_tokens.json").write_text(json.dumps(added))


def test_released_tokenizer_is_built_from_its_slow_form(tmp_path):
    write_codegen(tmp_path, {"[SEG]": 260, "  ": 258, "[PAD]": 259})
    tokenizer = PromptBuilder.load(tmp_path).tokenizer
    assert tokenizer.encode("cab  d[SEG] [PAD]<|endoftext|>").ids == [99, 256, 258, 100, 260, 32, 259, 257]


def test_unusable_tokenizers(tmp_path):
    with pytest.raises(CheckpointError) as fault:
        PromptBuilder.load(tmp_path)
    assert str(fault.value) == f"{tmp_path}: no tokenizer. It needs tokenizer.json, or vocab.json and merges.txt"
    write_codegen(tmp_path, {"[SEG]": 300})
    with pytest.raises(CheckpointError) as fault:
        PromptBuilder.load(tmp_path)
    assert str(fault.value) == f"{tmp_path / 'added_tokens.json'}: token '[SEG]' should have id 300"
    write_codegen(tmp_path, {})
    with pytest.raises(CheckpointError, match=r"^the tokenizer has no \[SEG\] token$"):
        PromptBuilder.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"the tokenizer cannot be used \("):
        PromptBuilder.load(tmp_path)
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    value = json.loads((tmp_path / "tokenizer.json").read_text())
    value["model"] = {"type": "WordLevel", "vocab": {}, "unk_token": "none"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match=r"the tokenizer cannot be used \(WordLevel error"):
        PromptBuilder.load(tmp_path)


def test_in_another_process_a_caption_cannot_speak_in_special_tokens_either(builder):
    assert pickle.loads(pickle.dumps(builder)).build(["a [SEG]"]) == builder.build(["a [SEG]"])


def test_what_a_tokenizer_did_to_its_last_batch_is_forgotten(builder):
    used = Tokenizer.from_str(builder.tokenizer.to_str())
    used.enable_padding(length=40)
    used.enable_truncation(20)
    assert PromptBuilder(Tokenizer.from_str(used.to_str())).build(["a red cup"]) == builder.build(["a red cup"])
