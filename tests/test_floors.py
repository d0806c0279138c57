"""Imports run downwards only: cli > jobs > data > model > world > words, and in order within each floor."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "egoexo_xseg"

# From the ground up. A file imports only from rows above its own in this list (below it in the house).
FLOORS = """
errors
files
progress
parallel
config
masks
records
world.camera world.paint world.motion
world.solids
world.room world.things world.people
world.shadows
world.render
world.scene
world.draws
world.recording
model.configuration model.prompts model.positions model.precision model.released model.folders model.weight_files
model.inputs model.swin model.projector
model.conditions model.assignment model.pixel_decoder model.mask_decoder
model.segmenter model.losses
model.answers
model.objective
model.checkpoint
model.hub
model.store
model.captioner
data.lzstring data.images data.intervals data.phrases data.sources
data.annotations data.metrics data.logistic data.videos
data.captions
data.pairs data.parts data.relator data.shards data.submission data.visibility
data.predictions data.scoring
data.foreign
data.moments
data.dataset
jobs.train_state jobs.visibility_fit jobs.manifest jobs.palette jobs.published jobs.packages
jobs.pictures jobs.charts
jobs.reliability
jobs.sample jobs.prepare jobs.predict jobs.calibrate jobs.pack jobs.validate jobs.evaluate jobs.show
jobs.caption jobs.relator jobs.train_log jobs.weights
jobs.card
jobs.push
api
jobs.attempt jobs.doctor
jobs.page jobs.tiles
jobs.train jobs.analyze jobs.report jobs.compare
jobs.demo
jobs.embeddings
jobs.analyze_text jobs.analyze_alignment jobs.analyze_fusion
cli.app
cli.data cli.model cli.scores cli.analysis cli.weights
cli.tour
cli
__main__
""".split("\n")


def modules() -> dict[str, Path]:
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def rank(module: str) -> int | None:
    """The highest row that names the module; the package's own `__init__`s of folders hold no imports."""
    for index, row in enumerate(FLOORS):
        for pattern in row.split():
            if module == pattern or (pattern.endswith(".*") and module.startswith(pattern[:-1])):
                return index
    return None


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, at its top or inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("egoexo_xseg"):
            base = node.module.removeprefix("egoexo_xseg").lstrip(".")
            for alias in node.names:
                child = f"{base}.{alias.name}".lstrip(".")
                found.add(child if child in MODULES else base)
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("egoexo_xseg.") for alias in node.names if "egoexo_xseg" in alias.name}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: imports are absolute"
    return found - {""}


MODULES = modules()


def test_every_file_stands_on_a_floor():
    homeless = [name for name in MODULES if name and "." in name and rank(name) is None]
    assert not homeless


def test_imports_run_downwards():
    upward = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        for imported in imports(path)
        if rank(module) is not None and rank(imported) is not None and rank(imported) >= rank(module)
    ]
    assert not upward


def test_data_touches_the_model_in_one_room():
    touching = {
        module
        for module, path in MODULES.items()
        if module.startswith("data.") and any(name.startswith("model") for name in imports(path))
    }
    assert touching == {"data.dataset"}


def test_rooms_stay_readable():
    long = {module: lines for module, path in MODULES.items() if (lines := path.read_text("utf-8").count("\n")) > 350}
    assert not long
