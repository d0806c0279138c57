"""The captioner: what it is shown of an object, and what it answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from egoexo_xseg.errors import CheckpointError, MaskError
from egoexo_xseg.model import captioner as module
from egoexo_xseg.model.captioner import FILES, PROMPT, Captioner, pad_square, show_object

WORDS = ("USER", "ASSISTANT", ":", "a", "red", "green", "striped", "box", "ball", "cup")


# What it is shown


def boxed(hw, rows, columns):
    mask = np.zeros(hw, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


@pytest.mark.parametrize(
    ("rows", "columns", "window"),
    [
        ((100, 180), (200, 240), (slice(80, 200), slice(160, 280))),  # a quarter of 80 on all sides, square
        ((100, 104), (200, 204), (slice(84, 120), slice(184, 220))),  # 16 pixels at least
        ((0, 80), (0, 80), (slice(0, 100), slice(0, 100))),  # cut off at the image's corner
        ((10, 290), (20, 380), (slice(0, 300), slice(0, 400))),  # nearly everything: the whole image
    ],
)
def test_the_crop_has_a_margin_and_stays_inside(rows, columns, window):
    image = np.arange(300 * 400 * 3, dtype=np.uint32).astype(np.uint8).reshape(300, 400, 3)
    mask = boxed((300, 400), rows, columns)
    shown = show_object(image, mask)
    assert shown.shape == image[window].shape
    assert np.array_equal(shown[~mask[window]], image[window][~mask[window]])


def test_the_tint_is_the_authors():
    image = np.full((50, 50, 3), (200, 100, 0), np.uint8)
    shown = show_object(image, boxed((50, 50), (20, 30), (20, 30)))
    assert set(map(tuple, shown.reshape(-1, 3).tolist())) == {(200, 100, 0), (140, 146, 0)}
    assert (image == (200, 100, 0)).all()


@given(
    hw=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    size=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
@settings(max_examples=60, deadline=None)
def test_all_of_the_object_is_shown(hw, corner, size):
    starts = [min(int(place * side), side - 1) for place, side in zip(corner, hw, strict=True)]
    stops = [start + max(1, int(part * (side - start))) for start, part, side in zip(starts, size, hw, strict=True)]
    mask = boxed(hw, (starts[0], stops[0]), (starts[1], stops[1]))
    shown = show_object(np.zeros((*hw, 3), np.uint8), mask)
    assert np.count_nonzero((shown == (0, 76, 0)).all(2)) == np.count_nonzero(mask)  # 0.3 of 255, rounded
    assert np.count_nonzero(shown.any(2)) == np.count_nonzero(mask)


def test_nothing_cannot_be_shown():
    with pytest.raises(MaskError) as fault:
        show_object(np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), bool))
    assert str(fault.value) == "an object without a pixel cannot be shown"


def test_a_square_keeps_all_of_a_long_image():
    image = np.full((2, 6, 3), 200, np.uint8)
    square = pad_square(image, np.array([1, 2, 3], np.uint8))
    assert square.shape == (6, 6, 3)
    assert np.array_equal(square[2:4], image)
    assert (square[[0, 1, 4, 5]] == (1, 2, 3)).all()


# What it answers


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Path:
    """An untrained LLaVA of the smallest size, saved as transformers saves any: CLIP tower, class token left out."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    special = ["<pad>", "</s>", "<unk>", "<image>"]
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*special, *WORDS])}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    tower = CLIPVisionConfig(
        image_size=28,
        patch_size=14,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    text = LlamaConfig(
        vocab_size=14,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=1,
    )
    config = LlavaConfig(vision_config=tower, text_config=text, image_token_id=3, vision_feature_layer=-2)
    folder = tmp_path_factory.mktemp("llava") / "model"
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(3)
        model = LlavaForConditionalGeneration(config)
        for parameter in model.parameters():
            parameter.data.mul_(8)  # far from uniform, so that pictures and places matter
    model.save_pretrained(folder)
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    LlavaProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(llava, tmp_path) -> Path:
    return Path(shutil.copytree(llava, tmp_path / "copy"))


def load(folder: Path) -> Captioner:
    return Captioner.load(folder, device="cpu", dtype=torch.float32)


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    sizes = rng.integers(8, 60, (count, 2)).tolist()
    return [(rng.integers(0, 256, (1, 1, 3)) * rng.random((*hw, 1))).astype(np.uint8) for hw in sizes]


def test_answers_of_a_batch_are_those_of_single_pictures(llava):
    captioner, images = load(llava), pictures(9)
    answers = captioner.describe(images)
    assert answers == [captioner.describe([image])[0] for image in images]
    assert len(set(answers)) > 1
    assert captioner.describe(images) == load(llava).describe(images) == answers
    assert captioner.describe([]) == []


def test_answers_hold_new_words_only_and_end(llava):
    for said in load(llava).describe(pictures(5)):
        assert len(said.split()) <= module.MAX_NEW_TOKENS
        assert "USER" not in said.split()[:1] and "<" not in said


def test_the_question_is_llava_s_own_form(llava):
    """The released form of LLaVA-1.5 where the model brings no template; as many image tokens as features."""
    captioner = load(llava)
    text = captioner.processor.tokenizer.decode(captioner.question[0])
    known = " ".join(word if word in WORDS else "<unk>" for word in spaced(PROMPT).split())
    assert text == f"USER : {'<image> ' * 4}{known} ASSISTANT :"


def spaced(text: str) -> str:
    return text.replace(",", " ,").replace(".", " .")


def test_a_model_s_own_template_comes_first(copy):
    (copy / "chat_template.jinja").write_text("{% for m in messages %}a red cup <image>{% endfor %} ball")
    captioner = load(copy)
    tokenizer = captioner.processor.tokenizer
    assert tokenizer.decode(captioner.question[0]) == "a red cup <image> <image> <image> <image> ball"


def test_the_repository_s_sampling_is_ignored(copy):
    before = load(copy).describe(pictures(4))
    path = copy / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_sample": True, "temperature": 9.0, "num_beams": 3}))
    assert load(copy).describe(pictures(4)) == before


def test_the_revision_names_everything_that_decides_an_answer(copy):
    revision = load(copy).revision
    assert len(revision) == 64 and load(copy).revision == revision
    (copy / "notes.txt").write_text("of no importance")
    assert load(copy).revision == revision
    for name in ("processor_config.json", "tokenizer_config.json"):
        (copy / name).write_text((copy / name).read_text() + "\n")
        assert load(copy).revision != revision
        revision = load(copy).revision


def test_a_repository_s_revision_is_its_commit(copy, monkeypatch):
    snapshot = copy.rename(copy.with_name("0123456789" * 4))
    asked = {}

    def resolve(model, wanted):
        asked.update(model=model, wanted=wanted)
        return snapshot

    monkeypatch.setattr(module, "resolve_model", resolve)
    captioner = Captioner.load("llava-hf/llava-1.5-7b-hf", device="cpu", dtype=torch.float32)
    assert captioner.revision == "0123456789" * 4
    assert asked == {"model": "llava-hf/llava-1.5-7b-hf", "wanted": FILES}
    assert "*.safetensors" in FILES and not any("bin" in name or ".py" in name for name in FILES)


def test_bfloat16_answers_too(llava):
    captioner = Captioner.load(llava, device="cpu", dtype=torch.bfloat16)
    assert captioner.model.dtype == torch.bfloat16
    assert len(captioner.describe(pictures(2))) == 2


# What cannot be used


def test_no_such_model():
    with pytest.raises(CheckpointError) as fault:
        load(Path("no/such/folder"))
    assert str(fault.value).startswith("no/such/folder: no such model folder")


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (None, "the file is missing"),
        ("{", "the file is not readable JSON"),
        ("[]", "model_type is None, not 'llava'"),
        ('{"model_type": "phi"}', "model_type is 'phi', not 'llava'"),
    ],
)
def test_not_a_llava(tmp_path, config, line):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError) as fault:
        load(tmp_path)
    assert str(fault.value) == f"{tmp_path / 'config.json'}: {line}"


def test_pickles_are_never_read(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no captioner can be loaded") as fault:
        load(copy)
    assert "\n" not in str(fault.value) and str(copy) in str(fault.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json", "model.safetensors"])
def test_a_file_is_missing_or_broken(copy, name):
    for breakage in (lambda path: path.write_bytes(path.read_bytes()[:40]), Path.unlink):
        breakage(copy / name)
        with pytest.raises(CheckpointError, match="no captioner can be loaded") as fault:
            load(copy)
        assert "\n" not in str(fault.value)


def test_missing_weights_are_named(copy):
    path = copy / "model.safetensors"
    weights = load_file(path)
    lost = next(name for name in sorted(weights) if "projector" in name)
    del weights[lost]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match="1 weights are missing: .*multi_modal_projector"):
        load(copy)


def test_a_template_without_a_picture(copy):
    (copy / "chat_template.jinja").write_text("a red cup")
    with pytest.raises(CheckpointError, match="no captioner can be loaded .*the chat template leaves out the image"):
        load(copy)


def test_the_shipped_captioner_sees_colours(monkeypatch):
    """On takes that no training drew; one in twelve would be luck."""
    weights = Path(__file__).parents[1] / "weights"
    monkeypatch.syspath_prepend(weights)
    from captioner_views import draw_held_out

    asked = [item for item in draw_held_out(range(2)) if item.share > 0.005]
    said = Captioner.load(weights / "captioner-tiny", device="cpu", dtype=torch.float32).describe(
        [item.shown for item in asked]
    )
    right = [item.caption.split()[0] in answer.split() for item, answer in zip(asked, said, strict=True)]
    assert len(right) > 5 and sum(right) >= 0.75 * len(right)
