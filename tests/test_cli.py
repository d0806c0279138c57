"""The street: help for everything, one line for every mistake, nothing heavy on the way."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from egoexo_xseg import __version__, progress
from egoexo_xseg.cli import cli
from egoexo_xseg.cli.app import report_faults, spread, table
from egoexo_xseg.files import written_whole

COMMANDS = {
    (name, *inner): found
    for name, command in cli.commands.items()
    for inner, found in (
        [((own,), sub) for own, sub in command.commands.items()]
        if isinstance(command, click.Group)
        else [((), command)]
    )
}
"""What can be run, by its words: those of groups have two."""


def run(*args: object):
    return CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="xseg")


def error(*args: object) -> str:
    """The one line that a user reads after a mistake."""
    result = run(*args)
    assert result.exit_code == 1, result.output
    assert result.stdout == "" and result.stderr.count("\n") == 1 and result.stderr.startswith("Error: ")
    return result.stderr.removeprefix("Error: ").rstrip("\n")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_has_a_working_example(words):
    result = run(*words, "--help")
    assert result.exit_code == 0
    lines = result.output.split("Example:\n")[1].split("\n\n")[0].splitlines()
    for line in lines:
        program, *args = line.split()
        assert (program, *args[: len(words)]) == ("xseg", *words)
        known = {option for param in COMMANDS[words].params for option in param.opts}
        assert {arg for arg in args if arg.startswith("-")} <= known


@pytest.mark.parametrize("group", [(), ("analyze",), ("weights",)], ids=" ".join)
def test_group_help_lists_every_command_with_a_whole_sentence(group, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    output = run(*group, "--help").output
    commands = cli.commands[group[0]].commands if group else cli.commands
    shown = dict(re.findall(r"^  ([a-z]+) +(\S.*)$", output.split("Commands:\n")[1], re.MULTILINE))
    assert shown == {name: command.get_short_help_str(200) for name, command in commands.items()}
    assert all(line.endswith(".") and not line.endswith("..") for line in shown.values())


@pytest.mark.parametrize("group", [(), ("analyze",), ("weights",)], ids=" ".join)
def test_groups_alone_show_their_help(group):
    result = run(*group)
    assert result.exit_code == 1 and result.stdout == "" and result.stderr == run(*group, "--help").stdout


def test_version():
    assert run("--version").output == f"xseg, version {__version__}\n"


def test_every_option_is_explained():
    for words, command in COMMANDS.items():
        for param in command.params:
            assert not isinstance(param, click.Option) or param.help, f"{words} {param.opts}"


def test_unknown_command():
    assert error("nothing") == "No such command 'nothing'. See xseg --help."
    assert error("predicted") == "No such command 'predicted'. Did you mean 'predict'? See xseg --help."


def test_unknown_option():
    assert error("sample", "RAW", "--size", "9").startswith("No such option '--size'")


def test_mistakes_within_a_group(tmp_path):
    assert error("analyze", "texts").startswith("No such command 'texts'")
    assert error("analyze", "text", "--data", tmp_path, "--out", tmp_path) == (
        "Missing option '--captions'. See xseg analyze text --help."
    )
    assert error("analyze", "fusion", "--data", tmp_path, "--out", tmp_path, "--model", tmp_path / "none") == (
        f"{tmp_path}: no prepared takes here. Run xseg prepare first"
    )


def test_missing_folder(tmp_path):
    assert error("prepare", tmp_path / "nowhere", tmp_path / "data") == (
        f"Invalid value for 'RAW|RECORDS...': Path '{tmp_path / 'nowhere'}' does not exist. See xseg prepare --help."
    )


def test_exit_codes(monkeypatch, tmp_path):
    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    assert run("--version").exit_code == 0
    assert error("weights", "inspect", tmp_path).startswith(f"{tmp_path}: ")  # 1, as for what is mistyped
    monkeypatch.setattr(cli.commands["weights"].commands["list"], "callback", interrupt)
    result = run("weights", "list")
    assert result.exit_code == 130
    said = "Error: Interrupted. Nothing is half-written; long commands continue when run again."
    assert result.stderr.strip() == said  # after the ^C of a terminal


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (MemoryError(), "Out of memory. Try a smaller --batch-size, or --device cpu."),
        (RuntimeError("CUDA out of memory. Tried"), "Out of memory. Try a smaller --batch-size, or --device cpu."),
        (OSError(28, "No space left on device", "/there/scores.json"), "/there/scores.json: No space left on device"),
        (OSError("read-only"), "read-only"),
    ],
)
def test_what_the_system_refuses_is_one_line(monkeypatch, fault, line):
    def refuse(**_: object) -> None:
        raise fault

    monkeypatch.setattr(cli.commands["weights"].commands["list"], "callback", refuse)
    assert error("weights", "list") == line


def test_a_reader_that_has_seen_enough(tmp_path):
    """As `xseg --help | head -1`: nothing is wrong, and nothing is said."""
    code = "import sys; from egoexo_xseg.cli import cli; sys.argv = ['xseg', 'weights', 'list']; "
    code += "cli.commands['weights'].commands['list'].callback = lambda **_: [print('x' * 99, flush=True) for _ in range(9999)]"
    process = subprocess.Popen(
        [sys.executable, "-c", code + "; cli()"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    )
    with process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 1


def test_files_that_cannot_be_written_are_named_as_they_were_given(tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OSError) as fault, written_whole(tmp_path / "a.json"):
        pass
    assert fault.value.filename == str(tmp_path / "a.json")


def test_v_at_either_place(caplog):
    for line in (("-v", "weights", "list"), ("weights", "list", "-v")):
        logging.getLogger("egoexo_xseg").setLevel(logging.NOTSET)
        assert run(*line).exit_code == 0 and logging.getLogger("egoexo_xseg").level == logging.INFO
    logging.getLogger("egoexo_xseg").setLevel(logging.NOTSET)


def test_validation_without_takes_to_validate_on(tmp_path):
    assert error("train", "--init", tmp_path, "--val-split", "val", "--out", tmp_path / "run") == (
        "--val-split needs --val-data where there is no --data. See xseg train --help."
    )


@pytest.mark.parametrize("name", ["pack", "validate", "evaluate", "calibrate", "show", "report", "compare"])
def test_data_and_annotations_are_two_names_of_one_option(name):
    assert any(set(param.opts) == {"--data", "--annotations"} for param in cli.commands[name].params)


def test_the_demo_of_an_installed_package_looks_for_models_in_the_working_directory(tmp_path, monkeypatch):
    from egoexo_xseg.jobs import demo

    monkeypatch.setattr(demo, "BESIDE", tmp_path / "site-packages" / "weights")
    monkeypatch.chdir(tmp_path)
    assert error("demo") == (
        "weights/xseg-tiny: the demo's model is not there. Run it in the root of a clone of the repository"
    )


def test_processes_of_torchrun_share_a_shard(monkeypatch):
    assert spread((2, 4), "cpu") == ((2, 4), "cpu")
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    assert spread((1, 1), "cpu") == ((4, 8), "cpu")
    assert spread((2, 4), "cpu") == ((12, 32), "cpu")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell, monkeypatch):
    monkeypatch.setenv("_XSEG_COMPLETE", f"{shell}_source")
    monkeypatch.setattr(BashComplete, "_check_version", staticmethod(lambda: None))  # asks the bash of this machine
    script = run()
    assert script.exit_code == 0 and f"_XSEG_COMPLETE={shell}_complete" in script.stdout
    monkeypatch.setenv("_XSEG_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", "xseg pre")
    monkeypatch.setenv("COMP_CWORD", "pre" if shell == "fish" else "1")
    assert {"prepare", "predict"} <= set(re.findall("pre[a-z]+", run().stdout))


@pytest.mark.parametrize("no_colour", [False, True])
def test_bars_have_colours_unless_told(no_colour):
    """On a terminal; elsewhere nothing is drawn."""
    code = "from egoexo_xseg.progress import track; list(track(range(2), 'Counting', total=2))"
    reader, terminal = os.openpty()
    env = {**os.environ, "TERM": "xterm-256color", **({"NO_COLOR": "1"} if no_colour else {})}
    subprocess.run([sys.executable, "-c", code], stderr=terminal, env=env, check=True)
    os.close(terminal)
    drawn = os.read(reader, 1 << 16).decode()
    os.close(reader)
    assert "Counting" in drawn and bool(re.search(r"\x1b\[[\d;]*3[0-8]", drawn)) is not no_colour
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, check=True)
    assert told.stdout == told.stderr == b""


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from egoexo_xseg.cli import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'cv2', 'av', 'scipy', 'PIL', 'huggingface_hub', 'rich', 'matplotlib'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


LIGHT = [
    "errors", "parallel", "masks", "records", "world", "data.lzstring", "data.videos", "data.annotations", "data.pairs", "data.captions",
    "data.phrases",
    "data.metrics", "data.submission", "jobs.sample", "jobs.prepare", "jobs.evaluate", "jobs.pack", "jobs.validate",
    "jobs.show", "jobs.calibrate",
]  # fmt: skip


def test_light_modules_import_no_torch():
    names = ", ".join(f"egoexo_xseg.{name}" for name in LIGHT)
    code = f"import sys, {names}\nsys.exit('torch came along' if 'torch' in sys.modules else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_long_lists_of_faults_are_whole_under_verbose(capsys, caplog):
    faults = [f"fault {number}" for number in range(12)]
    report_faults(faults, "things are wrong")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["12 things are wrong:", *(f"  {own}" for own in faults[:10]), "  ... and 2 more (-v lists them)"]
    caplog.set_level(logging.INFO, logger="egoexo_xseg")
    report_faults(faults, "things are wrong")
    assert capsys.readouterr().err.splitlines() == ["12 things are wrong:", *(f"  {own}" for own in faults)]


def test_names_that_would_steer_the_terminal_are_shown_without(capsys):
    report_faults(["object 'cup\x1b[2J'"], "things are wrong")
    table("Objects \x1b[1m", ("na\x07me",), [("cup\x1b]0;title",)])
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err and "\x07" not in shown.out
    assert "object 'cup?[2J'" in shown.err and "cup?]0;title" in shown.out
    assert error("weights", "inspect", "a\x1bb").startswith("a?b: ")


@pytest.mark.parametrize("shard", ["9/8", "0/8", "1/8/8", "a/8", "1", "9" * 5000 + "/" + "9" * 5000])
def test_a_shard_that_is_none(tmp_path, shard):
    line = error("predict", "--direction", "ego2exo", "--data", tmp_path, "--shard", shard)
    assert line.startswith("Invalid value for '--shard': ") and "is not a shard: the second of eight is 2/8" in line
    assert len(line) < 200


def test_devices_are_written_to_and_stay_devices(tmp_path):
    """As `--json /dev/null` by somebody who may replace it, or a pipe."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with written_whole(pipe) as file:
        file.write("scores")
    assert os.read(reader, 100) == b"scores" and pipe.is_fifo()
    os.close(reader)
    with written_whole(Path("/dev/null")) as file:
        file.write("scores")
    assert Path("/dev/null").is_char_device() and [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_two_equal_commands_do_not_write_into_one_file(tmp_path):
    path = tmp_path / "scores.json"
    with written_whole(path) as first, written_whole(path) as second:
        first.write("first, and longer")
        second.write("second")
    assert path.read_text() == "first, and longer"  # that ended last
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


def test_a_bar_within_a_bar_is_not_drawn(monkeypatch):
    """As a validation within training has it."""
    drawn = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(
        "rich.progress.Progress.track", lambda _, items, total, description: drawn.append(description) or items
    )
    for _ in progress.track([1, 2], "Training"):
        assert list(progress.track([3], "Predicting")) == [3]
    assert list(progress.track([4], "Afterwards")) == [4]
    assert drawn == ["Training", "Afterwards"]


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "{pred}", "--annotations", "{data}"),
        ("report", "{pred}", "--annotations", "{data}", "--out", "{out}"),
        ("compare", "{pred}", "{pred}", "--annotations", "{data}"),
        ("show", "{pred}", "--data", "{data}", "--out", "{out}"),
        ("calibrate", "{pred}", "--data", "{data}", "--out", "{out}"),
        ("export", "{out}/records.json", "--data", "{data}", "--direction", "ego2exo"),
        ("caption", "--data", "{data}", "--model", "{none}", "--out", "{out}/captions.jsonl"),
        ("predict", "--direction", "ego2exo", "--data", "{data}", "--model", "{none}", "--out", "{out}"),
        ("train", "--data", "{data}", "--init", "{none}", "--out", "{out}"),
        ("analyze", "alignment", "--data", "{data}", "--model", "{none}", "--out", "{out}"),
    ],
    ids=lambda command: command[0],
)
def test_takes_of_a_split_that_are_not_prepared_are_named(data, tmp_path, command):
    """Whatever comes of the command: here most have nothing to work on."""
    (data / "split.json").write_text('{"val": ["take-a", "take-c", "take-b"]}')
    (tmp_path / "pred" / "ego2exo").mkdir(parents=True)
    names = {name: tmp_path / name for name in ("pred", "out", "none")} | {"data": data}
    words = [word.format(**names) for word in command]
    line = "Warning: 1 of 3 takes of the split are not prepared: take-c"
    assert run(*words, "--split", "val").stderr.splitlines()[0] == line
    (data / "split.json").write_text('{"val": ["take-a", "take-b"]}')
    assert "not prepared" not in run(*words, "--split", "val").stderr
