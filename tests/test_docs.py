"""The documentation tells the truth: its commands exist, with the options it shows."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path

import click
import pytest

from egoexo_xseg import __version__
from egoexo_xseg.cli import cli
from egoexo_xseg.config import TrainConfig

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "weights").glob("**/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


def command_lines(page: Path) -> list[str]:
    """What calls xseg, in blocks of code (continuation lines joined) and in the text."""
    text = page.read_text("utf-8")
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`(xseg [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [line.strip() for line in lines if line.strip().startswith("xseg ") and "COMMAND" not in line]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_shown_commands_exist(page):
    for line in command_lines(page):
        words = shlex.split(line, comments=True)[1:]
        command = next((cli.commands[word] for word in words if not word.startswith("-")), cli)
        if isinstance(command, click.Group) and command is not cli and len(words) > 1:
            command = next(command.commands[word] for word in words[1:] if not word.startswith("-"))
        known = {option for param in [*cli.params, *command.params] for option in param.opts}
        assert {word.split("=")[0] for word in words if word.startswith("-")} <= known | {"--help"}, line


def test_readme_lists_every_command_with_its_help():
    rows = re.findall(r"^\| `xseg ([a-z]+)` \| (.+?) \|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert dict(rows) == {name: command.get_short_help_str(200) for name, command in cli.commands.items()}


def test_readmes_test_command_is_the_makefiles():
    assert "make test" in (ROOT / "README.md").read_text("utf-8")
    assert "make test" in (ROOT / ".ci" / "run").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, place in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
            assert not place or place in anchors(page.parent / target if target else page), f"{target}#{place}"


def anchors(page: Path) -> set[str]:
    """What headings of a page are called in links, as GitHub spells it."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_commands_with_json_are_those_that_the_guide_names():
    commands = {name: command for name, command in cli.commands.items() if not isinstance(command, click.Group)}
    for name, group in cli.commands.items():
        if isinstance(group, click.Group):
            commands |= {f"{name} {own}": command for own, command in group.commands.items()}
    prints = {name: o.is_flag for name, command in commands.items() for o in command.params if "--json" in o.opts}
    guide = (ROOT / "docs" / "guide.md").read_text("utf-8")
    (printing,) = re.findall(r"^- (`.*) print JSON with `--json`; (`xseg evaluate --json FILE`)", guide, re.MULTILINE)
    assert prints == dict.fromkeys(re.findall(r"`xseg ([a-z ]+)`", printing[0]), True) | {"evaluate": False}


def test_parameters_are_as_many_as_the_model_page_says():
    import torch

    from egoexo_xseg.model.configuration import CrossViewConfig
    from egoexo_xseg.model.segmenter import CrossViewModel

    with torch.device("meta"):
        model = CrossViewModel(CrossViewConfig())
    counts = {name: sum(own.numel() for own in part.parameters()) for name, part in model.named_children()}
    page = (ROOT / "docs" / "model.md").read_text("utf-8")
    rows = {
        name: int(count.replace(",", ""))
        for name, count in re.findall(r"^\| ([a-z, ]+) \|.*\| ([\d,]+) \|$", page, re.M)
    }
    heads = model.mask_tokens.numel() + sum(counts[name] for name in ("mask_head", "object_head", "caption_head"))
    parts = {"image tower": "swin", "language model": "language"}
    named = {name: counts[parts.get(name, name.replace(" ", "_"))] for name in rows if name in parts or "," not in name}
    assert rows == named | {"mask tokens, three heads": heads}
    assert sum(rows.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert "1.48 billion" in page and round(sum(rows.values()) / 1e9, 2) == 1.48


def test_settings_of_training_are_those_of_the_formats_page():
    section = (ROOT / "docs" / "formats.md").read_text("utf-8").partition("\n## Training ")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| .+ \|$", section, re.MULTILINE)
    assert {name: json.loads(default) for name, default in rows} == TrainConfig().to_json()
    assert [name for name, _ in rows] == list(TrainConfig().to_json())


def test_the_changelog_has_this_version_or_unreleased():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "## Unreleased" in text or f"## {__version__}" in text


def test_shipped_weights_are_those_that_the_page_names():
    folder = ROOT / "weights"
    rows = dict(
        re.findall(r"^\| `([\w/.-]+)` \| `([0-9a-f]{64})` \|$", (folder / "README.md").read_text("utf-8"), re.MULTILINE)
    )
    assert rows == {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("*/*.safetensors")
    }
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 24_000_000
