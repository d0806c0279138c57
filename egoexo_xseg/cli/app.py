"""The `xseg` command: one group, the options that commands share, and the one place that prints errors."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from egoexo_xseg import __version__
from egoexo_xseg.errors import XsegError, is_out_of_memory, printable
from egoexo_xseg.progress import details_are_shown, show_details

FOLDER = click.Path(file_okay=False, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
EXISTING_PATH = click.Path(exists=True, path_type=Path)
LISTED = 5
"""Takes named in a warning."""

DIRECTIONS = click.Choice(["ego2exo", "exo2ego"])
DIRECTIONS_OR_BOTH = click.Choice(["ego2exo", "exo2ego", "both"])
DTYPES = click.Choice(["float32", "float16", "bfloat16"])


def _talk(_ctx: click.Context, _param: click.Parameter, verbose: bool) -> None:
    if verbose:
        show_details()


VERBOSE = click.Option(
    ["-v", "--verbose"],
    is_flag=True,
    expose_value=False,
    callback=_talk,
    help="Say what is being done, on standard error.",
)


class VerboseCommand(click.Command):
    """A command that takes -v like the group does: people write it at either place."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(VERBOSE)


class CaptionsPath(click.Path):
    """A file of captions, a folder of shards, or `none`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value == "none" else super().convert(value, param, ctx)


class Shard(click.ParamType):
    """One part of n, written `i/n` with i from 1."""

    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", value)
        index, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= index <= count:
            self.fail(f"{value[:40]!r} is not a shard: the second of eight is 2/8", param, ctx)
        return index, count


class OneLineErrors(click.Group):
    """A group whose errors are one line on standard error and exit code 1."""

    command_class = VerboseCommand

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **kwargs)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(
                errors="backslashreplace"
            )  # whatever an annotator typed, and whatever the terminal knows
        try:
            sys.exit(super().main(*args, standalone_mode=False, **kwargs) or 0)
        except XsegError as fault:
            fail(str(fault))
        except click.exceptions.NoArgsIsHelpError as fault:
            click.echo(fault.format_message(), err=True)
            sys.exit(1)
        except click.UsageError as fault:
            command = fault.ctx.command_path if fault.ctx else "xseg"
            said = fault.format_message().rstrip(".")
            fail(f"{said}{'' if said.endswith('?') else '.'} See {command} --help.")
        except click.ClickException as fault:
            fail(fault.format_message())
        except (click.Abort, KeyboardInterrupt):
            fail("Interrupted. Nothing is half-written; long commands continue when run again.", code=130)
        except (RuntimeError, MemoryError) as fault:
            if not is_out_of_memory(fault):
                raise
            fail("Out of memory. Try a smaller --batch-size, or --device cpu.")
        except BrokenPipeError:  # the reader, a pager or head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as fault:
            fail(f"{fault.filename}: {fault.strerror}" if fault.filename else str(fault))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the pipeline, not of the alphabet."""
        return list(self.commands)


def fail(line: str, code: int = 1) -> None:
    click.echo(f"Error: {printable(' '.join(line.split()))}", err=True)
    sys.exit(code)


def report_faults(faults: Iterable[object], what: str, shown: int = 10) -> None:
    """The first of some faults on standard error, or all under `-v`, and how many there were."""
    lines = [str(fault) for fault in faults]
    if details_are_shown():
        shown = len(lines)
    if lines:
        click.echo(f"{len(lines)} {what}:", err=True)
    for line in lines[:shown]:
        click.echo(f"  {printable(line)}", err=True)
    if len(lines) > shown:
        click.echo(f"  ... and {len(lines) - shown} more (-v lists them)", err=True)


def warn_unprepared(data: Path, split: str | None, takes: Iterable[str] = ()) -> None:
    """Say of which takes of a split nothing is read, since `data` lacks them; chosen takes are there, or an error."""
    if split is None or takes or not data.is_dir() or os.environ.get("RANK", "0") != "0":  # one of torchrun's says it
        return
    from egoexo_xseg.data.annotations import open_annotations

    found = open_annotations(data, split=split)
    lacking = found.unprepared
    if lacking:
        more = f" and {len(lacking) - LISTED} more" if len(lacking) > LISTED else ""
        count = f"{len(lacking)} of {len(found) + len(lacking)} takes of the split are not prepared"
        click.echo(f"Warning: {count}: {', '.join(lacking[:LISTED])}{more}", err=True)


def example(*lines: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Append an example to a command's help."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        text = inspect.cleandoc(command.__doc__ or "")  # or its indentation would show
        command.__doc__ = f"{text}\n\n\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)
        return command

    return decorate


def split_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--split", metavar="NAME", help="Only takes of this split: train, val, test, ... (default: all)."
    )(command)


def takes_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--takes", multiple=True, metavar="UID", help="Only this take, by uid or name; may be given several times."
    )(command)


def workers_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--workers", type=click.IntRange(1), metavar="N", help="Processes to use (default: all processors)."
    )(command)


def shard_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--shard", type=Shard(), default="1/1", show_default=True, help="This part of the takes only.")(
        command
    )


def device_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one).")(command)


def data_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The takes that a command cannot do without, for it looks at their frames."""
    return click.option("--data", type=EXISTING_FOLDER, required=True, help="Prepared takes.")(command)


def spread(shard: tuple[int, int], device: str | None) -> tuple[tuple[int, int], str | None]:
    """The part of a shard, and the GPU, of this process among those that torchrun started."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return shard, device
    (index, count), rank, processes = shard, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if device in (None, "cuda"):
        import torch

        device = f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else device
    return ((index - 1) * processes + rank + 1, count * processes), device


def captions_option(purpose: str, required: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--captions none|PATH`, or PATH alone where there is nothing to do without; commands say what for."""
    what = f"{purpose}: a file of xseg caption, or a folder with a file per shard."
    kind, metavar = (click.Path, "PATH") if required else (CaptionsPath, "none|PATH")
    path = kind(exists=True, path_type=Path)
    return click.option("--captions", type=path, metavar=metavar, required=required, help=what)


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table on standard output: words to the left, figures to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title=printable(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    lines = [[printable(str(cell)) for cell in row] for row in rows]
    for column, cells in zip(columns, zip(*lines, strict=True), strict=False):
        figures = all(cell[:1].isdigit() for cell in cells)
        drawn.add_column(column, justify="right" if figures else "left", no_wrap=True)
    for line in lines:
        drawn.add_row(*line)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=200)
    console.print(drawn)


@click.group(
    cls=OneLineErrors,
    params=[VERBOSE],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="xseg")
def cli() -> None:
    """Find the objects of one camera's view in another's.

    xseg takes masks of objects in one view of a synchronized recording (egocentric or exocentric) and finds the same
    objects in the other view: a mask for each, and whether it is visible there at all. It reads Ego-Exo4D's
    annotations and writes what the object correspondence challenge expects.

    \b
    Start with:
      xseg demo
    """
