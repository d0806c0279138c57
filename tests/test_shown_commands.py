"""Every command and every program that the pages show is run, page by page and in order, on one small take."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.core import ParameterSource
from PIL import Image
from test_cli import run

from egoexo_xseg.cli import cli
from egoexo_xseg.jobs import sample as sampling
from egoexo_xseg.masks import Rle, resize_nearest, rle_to_mask

ROOT = Path(__file__).parents[1]

BEGINS_WITH = {
    "README.md": "query.jpg mask.png target.jpg",
    "docs/guide.md": "MODEL",
    "docs/methods.md": "DATA OTHERS OTHERS_TEST theirs.json",
    "docs/model.md": "DATA CAPTIONS AFTER BEFORE",
    "docs/scores.md": "RAW submission.json",
    "weights/captioner-tiny/README.md": "DATA",
    "weights/xseg-tiny/README.md": "START RECIPE",
}
"""The pages, and what a reader of each has already, or puts in the place of a name. Everybody has `weights/`."""

MODELS = {
    "wangzeze/ObjectRelator-Ego2Exo-Full": "tiny",
    "wangzeze/ObjectRelator-Exo2Ego-Full": "tiny",
    "wangzeze/ObjectRelator-Joint": "tiny",
    "EnmingZhang/PSALM": "tiny",
    "llava-hf/llava-1.5-7b-hf": "weights/captioner-tiny",
    "MODEL": "tiny",
    "AFTER": "tiny",
    "BEFORE": "tiny",
}
"""What stands in for a checkpoint. A folder of a repository's name is found before the Hub is asked; the tiny model is
untrained, and not the shipped one: its predictions are not to be taken for that one's."""

ELSEWHERE = {"make": "by .ci/run and the test of the demo", "pip": "by make", "python": "by hand: they train for hours"}
"""Programs that the pages show and others run."""

SAMPLE = ("sample", "RAW", "--seed", "7", "--takes", "2", "--split", "val")
"""Makes the recordings of all pages: one take of two seconds instead of two of twelve."""

RECIPE = {"steps": 1, "batch_size": 1, "num_points": 64}
LAYOUTS = {"RAW": "RAW", "DATA": "DATA", "PREDICTIONS": "PRED", "OUT": "stage2"}
"""What docs/formats.md calls folders, and docs/guide.md."""


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model) -> Iterator[Path]:
    """One take of two seconds, which is all of three splits, and what is made of it; models under every name."""
    world, threads = tmp_path_factory.mktemp("world"), torch.get_num_threads()
    torch.set_num_threads(1)  # so little work is not worth sharing
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        patch.setattr(sampling, "SECONDS", range(2, 3))
        succeed(*["1" if word == "2" else word for word in SAMPLE])
        annotations = world / "RAW" / "annotations"
        splits = json.loads((world / "RAW" / "split.json").read_bytes())
        for split in ("test", "train"):
            shutil.copyfile(annotations / "relations_val.json", annotations / f"relations_{split}.json")
        (world / "RAW" / "split.json").write_text(json.dumps(dict.fromkeys(("val", "test", "train"), splits["val"])))
        shutil.copytree(ROOT / "weights", "weights")
        shutil.copytree(tiny_model, "tiny")
        for name, stand_in in MODELS.items():
            shutil.copytree(stand_in, name)
        succeed("prepare", "RAW", "DATA")
        data = ("--data", "DATA", "--split", "val")
        succeed("predict", "--direction", "both", *data, "--model", "tiny", "--out", "OTHERS")
        succeed("pack", "submission.json", "--predictions", "OTHERS", *data)
        succeed("caption", *data, "--model", "weights/captioner-tiny", "--out", "CAPTIONS")
        shutil.copyfile("submission.json", "theirs.json")
        for path in Path("OTHERS").glob("*/*.jsonl"):  # another method tells neither score nor margin
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            kept = [{key: row[key] for key in row if key not in ("score", "margin")} for row in rows]
            path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        shutil.copytree("OTHERS", "OTHERS_TEST")
        write_pictures()
        shutil.copytree("tiny", "START")
        Path("RECIPE").write_text(json.dumps(RECIPE))
    yield world
    torch.set_num_threads(threads)


def write_pictures() -> None:
    """A pair of views and one object's mask, as somebody has them."""
    (take,) = Path("DATA").glob("*/annotation.json")
    ego, exo = (next(take.parent.glob(f"{name}*/0.jpg")) for name in ("aria", "cam"))
    shutil.copyfile(ego, "query.jpg")
    shutil.copyfile(exo, "target.jpg")
    masks = json.loads(take.read_bytes())["masks"].values()
    mask = rle_to_mask(Rle.from_json(next(own[ego.parent.name]["0"] for own in masks if "0" in own[ego.parent.name])))
    with Image.open(ego) as image:
        Image.fromarray(np.uint8(255) * resize_nearest(mask, (image.height, image.width))).save("mask.png")


def succeed(*words: str) -> None:
    """Run a command, which must not fail; every path that its line names is there afterwards."""
    result = run(*words)
    assert result.exit_code == 0, f"xseg {shlex.join(words)}\n{result.output}"
    command, rest = cli.commands[words[0]], list(words[1:])
    if isinstance(command, click.Group):
        command, rest = command.commands[rest[0]], rest[1:]
    context = command.make_context("xseg", rest)
    for param in command.params:
        given = context.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
        value = context.params.get(param.name)
        for path in value if isinstance(value, tuple) else (value,):
            if given and isinstance(param.type, click.Path) and path is not None:
                index, count = context.params.get("shard", (1, 1)) if words[0] == "caption" else (1, 1)
                own = path.with_stem(f"{path.stem}-{index}-of-{count}") if count > 1 and param.name == "out" else path
                assert own.exists(), f"xseg {shlex.join(words)} left no {own}"


@pytest.fixture(scope="module")
def play(world, tmp_path_factory):
    """Follow a page in a folder of its own, once; returns the folder."""
    played: dict[str, Path] = {}

    def follow(page: str) -> Path:
        if page not in played:
            folder = played[page] = tmp_path_factory.mktemp("page")
            for name in ("weights", *MODELS, *BEGINS_WITH[page].split()):
                whole = world / name
                (folder / name).parent.mkdir(exist_ok=True)
                if not (folder / name).exists():
                    (shutil.copytree if whole.is_dir() else shutil.copyfile)(whole, folder / name)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                for language, block in code_blocks(page):
                    if language == "python":
                        exec(compile(block, page, "exec"), {"__name__": "__main__"})
                    elif is_shell(language, block):
                        follow_block(block, world)
        return played[page]

    return follow


def code_blocks(page: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)


def is_shell(language: str, block: str) -> bool:
    return language == "bash" or (not language and re.match(r"(xseg|torchrun|egoexo|make|pip|python) ", block))


def follow_block(block: str, world: Path) -> None:
    """Do what a block of shell says. Ways that lead to the same predictions each start anew."""
    lines = [line for task in tasks_of(block) for line in read_by_shell(block, task)]
    for folder in {words[words.index("--out") + 1] for _, *words in lines if "predict" in words}:
        shutil.rmtree(folder, ignore_errors=True)
    for program, *words in lines:
        if program == "egoexo" or tuple(words) == SAMPLE:
            shutil.copytree(world / "RAW", "RAW")
        elif program == "torchrun":
            follow_torchrun(words)
        elif words[:2] == ["weights", "push"]:  # tests/test_push.py has a Hub to send it to
            cli.commands["weights"].commands["push"].make_context("xseg", words[2:])
        elif program == "xseg":
            succeed(*words)
        else:
            assert program in ELSEWHERE


def tasks_of(block: str) -> range:
    """The numbers of a Slurm array's jobs."""
    array = re.search(r"^#SBATCH --array=(\d+)-(\d+)$", block, re.MULTILINE)
    return range(int(array[1]), int(array[2]) + 1) if array else range(1)


def read_by_shell(block: str, task: int) -> list[list[str]]:
    """The lines of words that a shell makes of a block: it runs it, with programs that only note how they were called."""
    bin_folder, told = Path("bin").absolute(), Path("told").absolute()
    bin_folder.mkdir(exist_ok=True)
    told.write_text("")
    for name in ("xseg", "torchrun", "egoexo", *ELSEWHERE):
        (bin_folder / name).write_text(f'#!/bin/bash\nwords=$(printf "%q " {name} "$@")\necho "$words" >> {told}\n')
        (bin_folder / name).chmod(0o755)
    env = {"PATH": f"{bin_folder}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": str(task)}
    done = subprocess.run(["bash", "-eu", "-c", block], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, f"{block}\n{done.stderr}"
    return [shlex.split(line) for line in told.read_text().splitlines()]


def follow_torchrun(words: list[str]) -> None:
    """Predict as each of its processes, one after the other; train as the only one, since they wait for each other."""
    options, line = words[: words.index("-m")], words[words.index("-m") + 2 :]
    assert (options[0], words[words.index("-m") + 1]) == ("--nproc-per-node", "egoexo_xseg")
    count = int(options[1]) if line[0] == "predict" else 1
    for rank in range(count):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": count,
                "TORCHELASTIC_RUN_ID": 1,
            }.items():
                patch.setenv(name, str(value))
            succeed(*line)


@pytest.mark.parametrize("page", BEGINS_WITH)
def test_what_a_page_shows_runs(play, page):
    folder = play(page)
    for path in re.findall(r"`([\w.-]+/[\w./-]+)`", (ROOT / page).read_text("utf-8")):
        if (folder / path.split("/")[0]).is_dir():
            assert (folder / path).exists(), f"{page} speaks of {path}"


def test_no_page_is_forgotten():
    folders = [folder for folder in ROOT.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    pages = [path.relative_to(ROOT).as_posix() for folder in folders for path in folder.rglob("*.md")]
    shown = {page for page in ["README.md", *pages] if any(is_shell(*block) for block in code_blocks(page))}
    assert shown == {page for page in BEGINS_WITH if page in shown} and shown >= {"README.md", "docs/guide.md"}


def test_layouts_of_folders_are_as_described(play):
    folder = play("docs/guide.md")
    blocks = "".join(block for language, block in code_blocks("docs/formats.md") if not language)
    shown = re.findall(r"^(RAW|DATA|PREDICTIONS|OUT)/(\S+)(.*)$", blocks, re.MULTILINE)
    assert len(shown) > 10
    for name, path, what in shown:
        pattern = re.sub(r"<\w+>|\{[\w,]+\}|\b\d{2,}(?=\.png)", "*", path)
        if what.strip() != "full size":  # the guide fetches the small ones
            assert list((folder / LAYOUTS[name]).glob(pattern)), f"{name}/{path}"


def test_a_lost_shard_is_named_as_the_guide_shows(play, monkeypatch):
    folder = play("docs/guide.md")
    monkeypatch.chdir(shutil.copytree(folder / "PRED", folder / "lost" / "PRED").parent)
    os.symlink(folder / "DATA", "DATA")
    for path in Path("PRED").glob("*/*-*-*-*-*.jsonl"):
        path.unlink()
    told = run("pack", "submission.json", "--predictions", "PRED", "--data", "DATA", "--split", "test").stderr
    (shown,) = re.findall(r"^Error: .*$", (ROOT / "docs/guide.md").read_text("utf-8"), re.MULTILINE)
    parts = map(re.escape, re.sub(r"\d+(?= predictions)|\d+(?=/16)", "N", shown).split("N"))
    assert re.fullmatch(r"\d+".join(parts).replace(r"\.\.\.", ".*"), told.strip())
