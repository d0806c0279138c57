"""Configurations: defaults, the way to disk and back, and what is refused."""

from __future__ import annotations

import json

import pytest

from egoexo_xseg.errors import CheckpointError
from egoexo_xseg.model.configuration import CrossViewConfig, DecoderShape, ProjectorShape, SwinShape, released_phi


def test_defaults_are_the_released_sizes():
    config = CrossViewConfig()
    assert config.grid == (16, 16)
    assert config.swin.widths == (128, 256, 512, 1024)
    assert (config.language.vocab_size, config.language.hidden_size) == (50297, 2048)
    assert config.language.rope_parameters["partial_rotary_factor"] == 0.5


@pytest.mark.parametrize("make", [CrossViewConfig, CrossViewConfig.tiny])
def test_round_trip_through_a_readable_file(make, tmp_path):
    config = make()
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "xseg"
    assert saved["swin"]["num_heads"] == list(config.swin.num_heads)
    again = CrossViewConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert (again.swin, again.projector, again.decoder) == (config.swin, config.projector, config.decoder)


def test_released_configuration_gives_the_language_model_and_nothing_else():
    values = {
        "model_type": "llava_phi",
        "swin_type": "base",
        "mm_projector_type": "swin_conv",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "rope_theta": 5000.0,
        "partial_rotary_factor": 0.25,
        "vocab_size": 51200,
        "torch_dtype": "float16",
    }
    config = CrossViewConfig.from_released(values, vocab_size=50297)
    expected = released_phi(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.25},
    )
    assert config.language.to_dict() == expected.to_dict()
    assert config.swin == SwinShape()
    with pytest.raises(CheckpointError) as fault:
        CrossViewConfig.from_released({"swin_type": "large"}, vocab_size=9)
    assert str(fault.value) == "config.json: swin_type 'large' is not supported, only 'base'"


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: SwinShape(depths=(1, 1)), "swin needs four stages"),
        (lambda: SwinShape(embed_dim=30), "swin's heads must divide the width of their stage"),
        (lambda: SwinShape(drop_path_rate=1.0), "swin's drop_path_rate must be within 0 and 1"),
        (lambda: ProjectorShape(planes=1 << 30), "projector's planes must be a whole number within 1 and 131072"),
        (lambda: SwinShape(window_size=200), "swin's window_size must be a whole number within 1 and 64"),
        (
            lambda: DecoderShape(num_mask_tokens=5000),
            "decoder's num_mask_tokens must be a whole number within 1 and 4096",
        ),
        (
            lambda: CrossViewConfig(image_size=4096, swin=SwinShape(patch_size=2)),
            "image_size / patch_size must be a whole number within 1 and 1024",
        ),
        (
            lambda: CrossViewConfig(language=released_phi(partial_rotary_factor=1e9)),
            "language's partial_rotary_factor must be above 0 and at most 1",
        ),
        (lambda: DecoderShape(num_layers=0), "decoder's num_layers must be a whole number within 1 and 512"),
        (lambda: DecoderShape(hidden_dim=48), "decoder's hidden_dim must divide by its heads and by 32"),
        (lambda: CrossViewConfig(image_size=0), "image_size must be a whole number within 1 and 4096"),
        (lambda: CrossViewConfig(image_size=32), "image_size must be above 32"),
        (lambda: CrossViewConfig(pixel_std=(1.0, 0.0, 1.0)), "pixel_std must be above 0"),
        (lambda: CrossViewConfig(pixel_mean=(1.0, 0.0)), "pixel_mean must be three numbers"),
        (lambda: CrossViewConfig(pad_value=256), "pad_value must be within 0 and 255"),
        (lambda: CrossViewConfig.from_dict({"swin": {"colour": 1}}), "swin has no 'colour'"),
        (
            lambda: CrossViewConfig(language=released_phi(hidden_size=1 << 40)),
            "language's hidden_size must be a whole number within 1 and 131072",
        ),
    ],
)
def test_refused_in_one_line(make, line):
    with pytest.raises(CheckpointError) as fault:
        make()
    assert str(fault.value).startswith(f"config.json: {line}")
