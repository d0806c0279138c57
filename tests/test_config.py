"""Training configurations: the paper's defaults, readable, refused with the setting's name."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from egoexo_xseg.config import TrainConfig
from egoexo_xseg.errors import XsegError


def test_defaults_are_the_papers():
    config = TrainConfig()
    assert (config.lr, config.weight_decay, config.epochs, config.batch_size, config.clip) == (6e-5, 0.0, 4.0, 12, 1.0)
    assert config.warmup == 0.03 and config.record_share == 1
    assert TrainConfig(stage="1").record_share == 1 / 20


def test_learning_rate_warms_up_and_falls():
    config = TrainConfig(lr=0.1, warmup=0.1, final_lr=0.2)
    rates = [config.learning_rate(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.01) and rates[9] == pytest.approx(0.1) and rates[10] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.06) and rates[100] == pytest.approx(0.02)
    assert all(later <= earlier for earlier, later in pairwise(rates[9:]))


def test_a_file_and_flags(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"stage": "all", "lr": 0.001, "betas": [0.9, 0.98], "region_levels": [1]}))
    config = TrainConfig.read(path, lr=0.01, steps=None)
    assert (config.stage, config.lr, config.betas, config.model_changes) == (
        "all", 0.01, (0.9, 0.98), {"region_levels": (1,)},
    )  # fmt: skip
    path.write_text(json.dumps(config.to_json()))
    assert TrainConfig.read(path) == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable as JSON"),
        ("[]", "a training configuration must be a JSON object"),
        ('{"lerning_rate": 1}', "no setting 'lerning_rate'"),
        ('{"betas": 3}', "betas must be two numbers from 0 to below 1, found 3"),
        ('{"betas": [0.9]}', "betas must be two numbers from 0 to below 1, found [0.9]"),
        ('{"betas": [0.9, 1.0]}', "betas must be two numbers from 0 to below 1, found [0.9, 1.0]"),
        ('{"caption_noise": 0.6}', "caption_noise must be a number within 0 and 0.5, found 0.6"),
        (f'{{"lr": 1{"0" * 400}}}', f"lr must be a number above 0, found 1{'0' * 400}"),
        ('{"seed": 1000000000001}', "seed must be a whole number from 0, found 1000000000001"),
        ('{"lr": "fast"}', "lr must be a number above 0, found 'fast'"),
        ('{"lr": NaN}', "lr must be a number above 0, found nan"),
        ('{"stage": 2}', "stage must be one of 1, 2, all, found 2"),
        ('{"batch_size": 0}', "batch_size must be a whole number above 0, found 0"),
        ('{"negatives": 1}', "negatives must be true or false, found 1"),
        ('{"crop": 0.2}', "crop must be a number within 0.25 and 1, found 0.2"),  # scenes are drawn 1 / crop as large
        ('{"region_levels": [7]}', "region_levels must be a list of numbers from 0 to 3, found [7]"),
        ('{"fusion": "early"}', "fusion must be released or per_object, found 'early'"),
    ],
)
def test_mistakes_are_named(tmp_path, content, message):
    path = tmp_path / "recipe.json"
    path.write_text(content)
    with pytest.raises(XsegError) as caught:
        TrainConfig.read(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_settings_given_in_code_are_checked_too():
    with pytest.raises(XsegError) as caught:
        TrainConfig(lr=-1.0)
    assert str(caught.value) == "training configuration: lr must be a number above 0, found -1.0"
