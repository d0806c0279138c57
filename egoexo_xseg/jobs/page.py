"""Pages that open from disk, without a network: one shell for all of them, and their own parts and data in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from egoexo_xseg.files import written_whole
from egoexo_xseg.jobs.palette import page_colours

HERE = Path(__file__).parent
SCRIPT = "<script>\n"


def write_page(name: str, path: Path, data: object, pictures: Mapping[str, object]) -> Path:
    """Write the page whose own markup and script are `<name>.html` beside this file; it appears whole or not at all.

    `pictures` stand apart from the `data`: the browser reads them when they come into sight.
    """
    markup, script = (HERE / f"{name}.html").read_text("utf-8").split(SCRIPT, 1)
    shell = (HERE / "page.html").read_text("utf-8").replace("/*COLOURS*/", page_colours())
    shell = shell.replace("<!--MARKUP-->", markup).replace("<!--SCRIPT-->", SCRIPT + script)
    head, rest = shell.split("/*DATA*/")
    middle, tail = rest.split("/*PICTURES*/")
    with written_whole(path) as file:
        for part in (head, script_json(data), middle, script_json(pictures), tail):
            file.write(part)
    return path


def script_json(value: object) -> str:
    """JSON that may stand inside a script element: whatever names hold, none of it ends the element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")
