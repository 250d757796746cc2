"""Which way volumes are cut, said and done: one-slice volumes from the data set to the answer, mixed directions."""

from importlib.metadata import EntryPoint
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from test_readers import write_nifti

from mvg import cli
from mvg.data.preparation import slicing_axis
from mvg.data.readers import Volume
from tasks.registration import stitch

COMMANDS = {"data": "mvg.data.commands:commands", "predict": "mvg.prediction.predict:predict"}
TINY = """
trainer: {max_steps: 1, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}
model:
  network: {class_path: mvg.models.CanvasViT, init_args: {image_size: [32, 32], width: 16, depth: 1, heads: 1}}
data:
  tasks: {segmentation: {class_path: tasks.Segmentation}}
  batch_size: 2
  epoch_length: 4
  val_length: 0
  test_length: 0
"""


@pytest.fixture
def mvg(tmp_path, monkeypatch):
    """Runs `mvg` in this process and in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MVG_CACHE", str(tmp_path / "cache"))
    entries = {name: EntryPoint(name, value, cli.GROUP) for name, value in COMMANDS.items()}
    monkeypatch.setattr(cli, "commands", lambda: entries)
    return lambda *words: cli.main([str(word) for word in words])


def write_set(shapes, spacings):
    """Writes one scan, with a box as its label, for each shape and spacing."""
    rng = np.random.default_rng(0)
    for number, (shape, spacing) in enumerate(zip(shapes, spacings, strict=True)):
        label, affine = np.zeros(shape), np.diag([*spacing, 1.0])
        label[tuple(slice(size // 3, size // 3 * 2 + 1) for size in shape)] = 1
        write_nifti(Path(f"set/images/p{number}.nii.gz"), rng.normal(100, 9, shape) + 50 * label, affine)
        write_nifti(Path(f"set/labels/p{number}.nii.gz"), label, affine, np.uint8)


@pytest.mark.parametrize("spacing", [(1, 1, 5), (2, 2, 1)])
def test_one_slice_goes_from_its_file_to_its_answer(mvg, spacing):
    write_set([(24, 20, 1)] * 4, [spacing] * 4)
    mvg("data", "prepare", "--layout=folders", "--folder=set", "--output=set.csv", "--split=1,0,0")
    Path("tiny.yaml").write_text(TINY)
    mvg("fit", "--config", "tiny.yaml", "--config", "set.yaml", "--name", "one")
    words = {"--weights": "runs/one/weights", "--context": "set", "--input": "set/images/p0.nii.gz", "--output": "out"}
    mvg("predict", *(word for pair in words.items() for word in pair), "--task", "segmentation")
    query, answer = nibabel.load("set/images/p0.nii.gz"), nibabel.load("out/p0.nii.gz")
    assert answer.shape == query.shape == (24, 20, 1)
    assert np.allclose(answer.affine, query.affine)
    assert set(np.unique(np.asarray(answer.dataobj))) <= {0, 1}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_slice_is_cut_along_its_one_voxel_whatever_the_spacing(axis):
    shape, spacing = np.insert([9, 8], axis, 1), np.insert([2.0, 2.0], axis, 1.0)
    affine = np.diag([*spacing, 1.0])
    assert slicing_axis(Volume(np.zeros(shape, np.float32), affine, Path("a.nii")), "auto") == axis


@pytest.mark.parametrize(
    ("slices", "spacings", "said"),
    [
        ("auto", [(1, 1, 3), (1, 1, 3), (3, 1, 1), (1, 1, 3)], "axial 3 (p0, p1, p3), sagittal 1 (p2); for one"),
        ("auto", [(1, 3, 1)] * 4, "`auto` cuts coronal slices."),
        ("axial", [(1, 1, 3), (1, 1, 3), (3, 1, 1), (1, 1, 3)], "Sizes"),
    ],
)
def test_check_says_where_auto_cuts_cases_along_different_axes(mvg, capsys, slices, spacings, said):
    write_set([(9, 8, 7)] * 4, spacings)
    mvg("data", "prepare", "--layout=folders", "--folder=set", "--output=set.csv")
    mvg("data", "check", "--manifest=set.csv", f"--slices={slices}")
    words = capsys.readouterr().out
    assert said in words
    assert ("different axes" in words) == ("--slices axial" in words) == (slices == "auto" and len(set(spacings)) > 1)


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [((1, 1, 1), 2), ((1, 1.1, 1), 2), ((3, 1, 1), 0), ((1, 1.5, 1), 1), ((5, 4.9, 1), 0), ((0.9, 0.9, 1), 2)],
)
@pytest.mark.parametrize("shape", [(9, 8, 7), (7, 9, 8), (8, 7, 9)])
def test_auto_cuts_across_a_clearly_larger_spacing_else_axially_whatever_the_shape(spacing, axis, shape):
    volume = Volume(np.zeros(shape, np.float32), np.diag([*map(float, spacing), 1.0]), Path("a.nii"))
    assert slicing_axis(volume, "auto") == axis


@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 8, 2), (1, 1, 1, 5), (1, 6, 1, 4)])
def test_images_of_one_pixel_across_are_stitched_at_their_brightness(shape):
    both = stitch(torch.full(shape, 0.2), torch.full(shape, 0.7))
    half = shape[-1] // 2
    assert torch.allclose(both[..., :half], torch.tensor(0.2))
    assert torch.allclose(both[..., half:], torch.tensor(0.7))


def test_images_one_pixel_wide_cannot_be_stitched():
    with pytest.raises(ValueError, match="layout: channels"):
        stitch(torch.zeros(1, 8, 1), torch.zeros(1, 8, 1))
