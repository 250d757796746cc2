import json
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import tasks
from benchmarks.grand_challenge.inference import main
from mvg import cli, weights
from mvg.models import CanvasViT

SHAPE = (6, 20, 18)


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.8, 0.8, 3.0))
    image.SetOrigin((-10.0, 5.0, 7.0))
    sitk.WriteImage(image, str(path))


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A tree as the platform mounts it, and a model of random weights."""
    entry = EntryPoint("predict", "mvg.prediction.predict:predict", cli.GROUP)
    monkeypatch.setattr(cli, "commands", lambda: {"predict": entry})
    rng = np.random.default_rng(0)
    network = CanvasViT((16, 16), width=16, depth=1, heads=1)
    weights.save(tmp_path / "model" / "weights", network, {"segmentation": tasks.Segmentation()})
    write(tmp_path / "model" / "context" / "images" / "a.mha", rng.random(SHAPE, np.float32))
    write(tmp_path / "model" / "context" / "targets" / "a.mha", (rng.random(SHAPE) > 0.5).astype(np.uint8))
    (tmp_path / "model" / "settings.json").write_text(json.dumps({"output": "organ", "task": "segmentation"}))
    for name in ("one", "two"):
        write(tmp_path / "input" / "images" / "ct" / f"{name}.mha", rng.random(SHAPE, np.float32))
    (tmp_path / "input" / "inputs.json").write_text("[]")
    return tmp_path


def ask(job):
    main([word for name in ("input", "output", "model") for word in (f"--{name}", str(job / name))])


def test_every_image_is_answered_on_its_grid_and_nothing_else_is_written(job):
    ask(job)
    found = sorted(str(path.relative_to(job / "output")) for path in (job / "output").rglob("*") if path.is_file())
    assert found == ["images/organ/one.mha", "images/organ/two.mha"]
    answer, query = (sitk.ReadImage(str(job / n / "one.mha")) for n in ("output/images/organ", "input/images/ct"))
    assert answer.GetSize() == query.GetSize()
    assert answer.GetPixelIDTypeAsString() == "8-bit unsigned integer"
    for name in ("Spacing", "Origin", "Direction"):
        assert np.allclose(getattr(answer, f"Get{name}")(), getattr(query, f"Get{name}")(), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "output"),
        ({"output": "../x"}, "slug"),
        ({"output": "x", "outputs": 1}, "may hold"),
        ({"output": "x", "input": "mr"}, "no image"),
    ],
)
def test_wrong_settings_are_named(job, settings, said):
    (job / "model" / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(SystemExit, match=said):
        ask(job)
    assert not (job / "output").exists()


def test_two_kinds_of_images_need_a_name(job):
    write(job / "input" / "images" / "mr" / "one.mha", np.zeros(SHAPE, np.float32))
    with pytest.raises(SystemExit, match="ct, mr"):
        ask(job)


def test_image_that_cannot_be_answered_fails_the_job(job):
    (job / "input" / "images" / "ct" / "one.mha").write_bytes(b"damaged")
    with pytest.raises(SystemExit) as stopped:
        ask(job)
    assert stopped.value.code


def test_template_is_complete():
    folder = Path(main.__globals__["__file__"]).parent
    used = [line.split()[1] for line in (folder / "Dockerfile").read_text().splitlines() if line.startswith("COPY ben")]
    assert all((folder.parents[1] / name).exists() for name in used)
    assert json.loads((folder / "model" / "settings.json").read_text())["output"]
