"""A checkpoint goes to a stand-in for the Hub and comes back the same; its page, and every refusal in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub.constants as hub_settings
import pytest
from hub_server import Hub, serve
from test_checkpoint import folder, released, saved  # noqa: F401 - fixtures
from test_cli import error, run

from egoexo_xseg import CrossViewSegmenter
from egoexo_xseg.errors import SubmissionError
from egoexo_xseg.jobs.card import make_card, read_scores
from egoexo_xseg.jobs.weights import inspect
from egoexo_xseg.model.checkpoint import checkpoint_hash
from egoexo_xseg.model.store import fetch_model

NAME = "owner/model"
TOKEN = "hf_secretsecret"
SCORES = {
    "ego2exo": {
        "iou": 0.56639,
        "location_error": 0.0449,
        "contour_accuracy": 0.7601,
        "visibility_balanced_accuracy": None,
        "existence_accuracy": 1.0,
        "samples": 1742,
    }
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty Hub that wants a token; caches lie in the test's folder."""
    monkeypatch.setenv("XSEG_CACHE", str(tmp_path / "xseg"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(hub_settings, "HF_HUB_DISABLE_XET", True)
    (tmp_path / "hub").mkdir()
    with serve(Hub({}, home=tmp_path / "hub")) as server:
        monkeypatch.setattr(hub_settings, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(hub_settings, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(hub_settings, "HF_HUB_CACHE", str(tmp_path / "downloads"))
        yield server


@pytest.fixture
def model(tiny_model, tmp_path):
    """A folder with a training's settings, things that stay at home, and no page."""
    own = shutil.copytree(tiny_model, tmp_path / "model")
    settings = {"config": {"stage": "all", "direction": "ego2exo", "steps": 7, "lr": 0.001, "share": None}}
    settings |= {"run": {"init": "abc", "data": "/home/me/data"}, "versions": {}}
    (own / "train.json").write_text(json.dumps(settings))
    (own / "state-7.pt").write_bytes(b"not for others")
    (own / "notes.txt").write_text("nor these")
    return own


@pytest.fixture
def scores(tmp_path):
    path = tmp_path / "measured.json"
    path.write_text(json.dumps(SCORES))
    return path


def test_there_and_back_again(hub, model, scores):
    result = run("weights", "push", model, NAME, "--scores", scores)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{hub.url}/{NAME}/commit/{hub.commit}\n" and len(hub.commits) == 1
    assert hub.private == {NAME: False} and hub.tokens == {f"Bearer {TOKEN}", ""}
    ours = {"README.md", "config.json", "model.safetensors", "scores.json", "tokenizer.json", "train.json"}
    assert {path.name for path in hub.repositories[NAME].iterdir()} == ours | {".gitattributes"}
    found = fetch_model(NAME)
    assert checkpoint_hash(found) == checkpoint_hash(model)
    assert (found / "train.json").read_bytes() == (model / "train.json").read_bytes()
    assert CrossViewSegmenter.from_pretrained(NAME).model.config.image_size == 128


def test_the_page_tells_what_was_measured(hub, model, scores):
    assert run("weights", "push", model, NAME, "--scores", scores, "--license", "mit").exit_code == 0
    card = (hub.repositories[NAME] / "README.md").read_text()
    front = "license: mit\nlibrary_name: xseg\npipeline_tag: image-segmentation\ntags:\n- xseg\n- ego-exo4d\n"
    assert card.startswith(f"---\n{front}- cross-view-segmentation\n- ego2exo\n---\n\n# model\n")
    for line in (
        f"xseg predict --model {NAME} --direction ego2exo --data DATA --split val --out PRED",
        "| IoU | 0.5664 |",
        "| visibility, balanced accuracy | - |",
        "| samples | 1,742 |",
        "| steps | 7 |",
        "| start (SHA-256) | abc |",
        f"| SHA-256 | {checkpoint_hash(model)} |",
    ):
        assert f"\n{line}\n" in card
    assert "untrained" in card and "share" not in card and "/home/me" not in card
    assert json.loads((hub.repositories[NAME] / "scores.json").read_text()) == SCORES


def test_an_authors_own_page_is_kept_unless_scores_are_given(hub, model, scores):
    (model / "README.md").write_text("My page")
    page = hub.home / "model" / "README.md"
    assert run("weights", "push", model, NAME).exit_code == 0 and page.read_text() == "My page"
    assert run("weights", "push", model, NAME, "--scores", scores).exit_code == 0 and "0.5664" in page.read_text()
    assert (model / "README.md").read_text() == "My page"


def test_the_page_of_the_shipped_model():
    shipped = Path(__file__).parents[1] / "weights" / "xseg-tiny"
    card = make_card(shipped, inspect(shipped), NAME, "apache-2.0", None)
    kept = json.loads((shipped / "calibration.json").read_text())
    before = [kept[direction]["fitted"]["before"] for direction in ("ego2exo", "exo2ego")]
    told = "balanced accuracy {balanced_accuracy}, log loss {log_loss}, calibration error {calibration_error}"
    assert f"| before | {' | '.join(told.format(**own) for own in before)} |" in card
    assert "- ego2exo\n- exo2ego\n---" in card and "--direction both" in card
    assert "untrained" not in card and "## Scores" not in card


def test_settings_stay_in_their_cells(model):
    settings = {"config": {"direction": ["ego2exo"], "a|b": "x | y\n\n# Heading <script>"}, "run": [1]}
    (model / "train.json").write_text(json.dumps(settings))
    card = make_card(model, inspect(model), NAME, "apache-2.0", None)
    assert "\n| a\\|b | x \\| y # Heading &lt;script> |\n" in card


def test_the_same_again_changes_nothing_and_another_replaces_all(hub, model, scores, tmp_path):
    first = run("weights", "push", model, NAME, "--scores", scores).stdout
    assert run("weights", "push", model, NAME, "--scores", scores).stdout == first and len(hub.commits) == 1
    kept = hub.repositories[NAME]
    for name in ("model.safetensors.index.json", "model-00001-of-00002.safetensors", "vocab.json", "notes.md"):
        (kept / name).write_text("of an earlier push, or somebody's own")
    (model / "train.json").unlink()
    assert run("weights", "push", model, NAME).exit_code == 0 and len(hub.commits) == 2
    ours = {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    assert {path.name for path in kept.iterdir()} == ours | {".gitattributes", "notes.md"}
    assert checkpoint_hash(fetch_model(NAME)) == checkpoint_hash(model)


def test_private_means_private(hub, model):
    assert run("weights", "push", model, NAME, "--private").exit_code == 0
    assert hub.private == {NAME: True}
    hub.private[NAME] = False
    remedy = "Make it private in its settings first, or choose another name"
    assert (
        error("weights", "push", model, NAME, "--private") == f"{NAME}: the repository is there, and public. {remedy}"
    )


LOGIN = "Run `hf auth login`, or set HF_TOKEN to"
OWNER = "Take one with write permission, of an account that owns the name"


@pytest.mark.parametrize(
    ("refused", "line"),
    [
        ({"create": 401}, f"the Hub does not accept the token. {LOGIN} another"),
        ({"create": 403}, f"the token may not write there. {OWNER}"),
        ({"preupload": 403}, f"the token may not write there. {OWNER}"),
        ({"commit": 403}, f"the token may not write there. {OWNER}"),
        ({"upload": 403}, f"the token may not write there. {OWNER}"),
        ({"validate": 400}, "the Hub does not accept the metadata of README.md. See what stands between its --- lines"),
        ({"batch": 500}, "the Hub answers with status 500. Try again later; nothing was changed"),
    ],
)
def test_what_the_hub_refuses_is_one_line_without_the_token(hub, model, monkeypatch, refused, line):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    hub.refused = refused
    said = error("weights", "push", model, NAME)
    assert said == f"{NAME}: {line}" and TOKEN not in said and not hub.commits


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (PermissionError("no"), f"the token may not write there. {OWNER}"),
        (RuntimeError("no"), "the Hub cannot be reached. Check the connection, and give the command again"),
    ],
)
def test_faults_of_the_fast_transfer(hub, model, monkeypatch, fault, line):
    def fail(*_args, **_options):
        raise fault

    monkeypatch.setattr("huggingface_hub.HfApi.preupload_lfs_files", fail)
    assert error("weights", "push", model, NAME) == f"{NAME}: {line}" and not hub.commits


def test_without_token_or_network(hub, model, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(hub_settings, "HF_HUB_OFFLINE", True)
        line = "HF_HUB_OFFLINE is set. Nothing is uploaded without the network"
        assert error("weights", "push", model, NAME) == f"{NAME}: {line}"
    with monkeypatch.context() as patch:
        patch.setattr(hub_settings, "ENDPOINT", "http://127.0.0.1:9")
        line = "the Hub cannot be reached. Check the connection, and give the command again"
        assert error("weights", "push", model, NAME) == f"{NAME}: {line}"
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(hub_settings, "HF_TOKEN_PATH", str(model / "none"))
    monkeypatch.setattr(hub_settings, "HF_STORED_TOKENS_PATH", str(model / "none"))
    assert error("weights", "push", model, NAME) == f"{NAME}: no token for the Hub. {LOGIN} a token that may write"
    assert not hub.asked


def test_what_is_not_ready_is_not_published(hub, model, scores, tmp_path):
    assert error("weights", "push", model, "model") == "model: no name of a repository. Give owner/name"
    line = "'a licence' is no licence's name on the Hub. For example apache-2.0, or other"
    assert error("weights", "push", model, NAME, "--license", "a licence") == line
    scores.write_text(json.dumps(SCORES | {"both": {}}))
    line = f"{scores}: not the scores that xseg evaluate --json writes"
    assert error("weights", "push", model, NAME, "--scores", scores) == line
    (model / "calibration.json").write_text(json.dumps({"ego2exo": {"model": "x", "intercept": 0, "signals": {}}}))
    assert "was calibrated for another checkpoint" in error("weights", "push", model, NAME)
    (model / "calibration.json").unlink()
    (model / "tokenizer.json").unlink()
    assert str(model) in error("weights", "push", model, NAME)
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "pytorch_model.bin" in error("weights", "push", model, NAME)
    assert not hub.asked


def test_others_names_are_converted_first(hub, released):  # noqa: F811
    problem = "only xseg's own checkpoints in safetensors are published"
    remedy = "Run xseg weights convert, and push what it writes"
    assert error("weights", "push", released, NAME) == f"{released}: {problem}. {remedy}"
    assert not hub.asked


@pytest.mark.parametrize("value", ["1" + "0" * 400, "1e400", "NaN", "true", '"0.5"'])
def test_scores_that_no_evaluation_writes_are_refused(tmp_path, value):
    named = ", ".join(f'"{name}": {value}' for name in SCORES["ego2exo"])
    (tmp_path / "scores.json").write_text(f'{{"ego2exo": {{{named}}}}}')
    with pytest.raises(SubmissionError, match="not the scores that xseg evaluate --json writes"):
        read_scores(tmp_path / "scores.json")
