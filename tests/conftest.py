"""What every test may use."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egoexo_xseg.masks import mask_to_rle

HERE = Path(__file__).parent


def pytest_configure() -> None:
    """A folder that is not there would have most of what it is for skipped."""
    named = os.environ.get("XSEG_GOLDEN")
    if named and not Path(named).is_dir():
        pytest.exit(f"XSEG_GOLDEN names no folder: {named}", returncode=1)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of ground truths: the reduced one beside the tests, or a full one named by XSEG_GOLDEN."""
    return Path(os.environ.get("XSEG_GOLDEN") or HERE / "golden")


@pytest.fixture(scope="session")
def real_relations(golden) -> Path:
    """The folder of some of the release's own annotations."""
    if not (golden / "relations").is_dir():
        pytest.skip("no relations in this folder")
    return golden / "relations"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A checkpoint folder of an untrained tiny model."""
    from egoexo_xseg.model.checkpoint import new_checkpoint
    from egoexo_xseg.model.configuration import CrossViewConfig

    folder = tmp_path_factory.mktemp("models") / "tiny"
    new_checkpoint(folder, CrossViewConfig.tiny(), seed=0)
    return folder


EGO = "aria01_214-1"
CAMERAS = {EGO: (48, 48), "cam01": (36, 64), "cam02": (36, 64)}
OBJECT_IDS = ("red cup _0", "Bowl_1 ", "knife_2")


@pytest.fixture
def data(tmp_path) -> Path:
    """Two prepared takes of three cameras, three frames and three objects, one of which the ego camera never sees."""
    folder = tmp_path / "data"
    for seed, uid in enumerate(("take-a", "take-b")):
        write_take(folder / uid, np.random.default_rng(seed))
    (folder / "split.json").write_text(json.dumps({"val": ["take-a", "take-b"]}))
    return folder


def write_take(folder: Path, rng: np.random.Generator, object_ids: tuple[str, ...] = OBJECT_IDS) -> None:
    """Noise with bright boxes, as `xseg prepare` would write it."""
    masks: dict = {object_id: {camera: {} for camera in CAMERAS} for object_id in object_ids}
    for camera, (height, width) in CAMERAS.items():
        (folder / camera).mkdir(parents=True, exist_ok=True)
        for frame in (0, 30, 60):
            image = rng.integers(0, 120, (height, width, 3), np.uint8)
            for index, object_id in enumerate(object_ids):
                row, column = int(rng.integers(0, height - 12)), int(rng.integers(0, width - 12))
                if (camera == EGO and index == 2) or (camera == "cam02" and frame == 30):
                    continue
                mask = np.zeros((height, width), bool)
                mask[row : row + 8 + index, column : column + 10] = True
                image[mask] = (80 * index + 90) % 256
                masks[object_id][camera][str(frame)] = mask_to_rle(mask).to_json()
            Image.fromarray(image).save(folder / camera / f"{frame}.jpg", quality=95)
    annotation = {
        "masks": masks,
        "subsample_idx": [0, 30, 60],
        "annotated_frames": {object_id: {camera: [0, 30, 60] for camera in CAMERAS} for object_id in object_ids},
        "camera_size": {camera: list(hw) for camera, hw in CAMERAS.items()},
        "take_name": f"name of {folder.name}",
        "scenario": "Tea",
    }
    (folder / "annotation.json").write_text(json.dumps(annotation))


@pytest.fixture
def analyze_options(data, tmp_path, tiny_model):
    """Both directions of the prepared takes, with one exo camera and two frames, looked into with the tiny model."""
    from egoexo_xseg.jobs.analyze import AnalyzeOptions

    for path in data.glob("*/annotation.json"):
        annotation = json.loads(path.read_text())
        for cameras in annotation["masks"].values():
            del cameras["cam02"]
            for track in cameras.values():
                track.pop("60", None)
        path.write_text(json.dumps(annotation))
    return AnalyzeOptions(data, tmp_path / "out", model=str(tiny_model), device="cpu")


@pytest.fixture
def captions_file(tmp_path) -> Path:
    """Captions of two of the objects, in every camera; the names stay behind."""
    rows = [
        {"take_uid": uid, "object_id": object_id, "camera": camera, "frame": None, "caption": caption}
        for uid in ("take-a", "take-b")
        for object_id, caption in zip(OBJECT_IDS[:2], ("a red cup", "a bowl"), strict=True)
        for camera in CAMERAS
    ]
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
