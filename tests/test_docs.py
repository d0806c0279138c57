"""The documentation tells the truth: its commands exist, with the options it shows."""

from __future__ import annotations

import hashlib
import re
import shlex
from pathlib import Path

import click
import pytest

from egoexo_xseg.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "weights" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def command_lines(page: Path) -> list[str]:
    """Lines of code blocks that call xseg, continuation lines joined."""
    blocks = re.findall(r"```\w*\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("xseg ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shown_commands_exist(page):
    for line in command_lines(page):
        words = shlex.split(line, comments=True)[1:]
        command = next(cli.commands[word] for word in words if not word.startswith("-"))
        if isinstance(command, click.Group):
            command = next(command.commands[word] for word in words[1:] if not word.startswith("-"))
        known = {option for param in [*cli.params, *command.params] for option in param.opts}
        assert {word.split("=")[0] for word in words if word.startswith("-")} <= known | {"--help"}, line


def test_readme_lists_every_command_with_its_help():
    rows = re.findall(r"^\| `xseg ([a-z]+)` \| (.+?) \|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert dict(rows) == {name: command.get_short_help_str(200) for name, command in cli.commands.items()}


def test_readmes_test_command_is_the_makefiles():
    assert "make test" in (ROOT / "README.md").read_text("utf-8")
    assert "make test" in (ROOT / ".ci" / "run").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


def test_the_changelog_has_this_version_or_unreleased():
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text("utf-8")


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
