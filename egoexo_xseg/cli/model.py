"""Commands that run the model: predict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from egoexo_xseg.cli.app import DIRECTIONS, EXISTING_FILE, EXISTING_FOLDER, FOLDER, cli, example, split_option
from egoexo_xseg.cli.app import takes_option


class Shard(click.ParamType):
    """One part of n, written `i/n` with i from 1."""

    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        index, _, count = value.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            self.fail(f"{value!r} is not a shard: the second of eight is 2/8", param, ctx)
        return int(index), int(count)
