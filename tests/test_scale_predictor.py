"""Networks for volumes on files: any size, spacing and orientation in, the same grid out."""

import itertools
import json
from importlib.metadata import EntryPoint
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.orientations import apply_orientation
from PIL import Image
from test_next_scale import Told, small
from test_volume_predictor import ORIENTATIONS, grid, values, write

import tasks
from mvg import ScalePredictor, VolumePredictor, cli, weights
from mvg.cli import main
from mvg.data import Window
from mvg.next_scale import Foreground, NextScale, Several, retrieval_of
from mvg.prediction.plan import shown_at_once

SHAPE = (11, 18, 5)


def predictor(network=None, task=None, **options):
    return ScalePredictor(network or Told(), task or tasks.Segmentation(), rule=Window(0, 1), **options)


def stored(path):
    return np.asarray(nibabel.load(path).dataobj)


@pytest.mark.parametrize("number", range(0, 48, 5))
def test_every_orientation_gets_the_same_answer_on_its_own_grid(number, tmp_path):
    found, truth = predictor(), values(1, SHAPE) > 0.5
    found.set_context([write(tmp_path / "i.nii", values(0, SHAPE))], [write(tmp_path / "t.nii", truth, kind=np.uint8)])
    query = write(tmp_path / "q.nii", values(0, SHAPE), orientation=ORIENTATIONS[number], codes=(2, 4))
    answer = found(query)
    assert np.array_equal(answer.labels, apply_orientation(truth, ORIENTATIONS[number]))
    assert np.array_equal(answer.affine, nibabel.load(query).affine)
    assert answer.volumes[1] == pytest.approx(truth.sum() * 0.7 * 1.3 * 2.9, rel=1e-4)


def test_an_example_is_shown_at_the_size_of_the_querys_voxels(tmp_path):
    half = np.arange(32)[:, None, None] * np.ones((1, 32, 32)) >= 16
    fine, coarse = grid((1, 1, 1), oblique=False), grid((2, 2, 2), oblique=False)
    found = predictor()
    found.set_context([write(tmp_path / "i.nii", half, fine)], [write(tmp_path / "t.nii", half, fine, kind=np.uint8)])
    answer = found(write(tmp_path / "q.nii", values(0, (16, 16, 16)), coarse))
    assert np.array_equal(answer.labels, half[::2, ::2, ::2])


@pytest.mark.parametrize("task", [tasks.Segmentation(), tasks.Segmentation(scheme="random", channels=3)])
def test_every_class_comes_back(task, tmp_path, monkeypatch):
    monkeypatch.setattr("mvg.prediction.scale_predictor._SLAB", 200)
    found, labels = predictor(Told(out_channels=task.channels), task), np.zeros(SHAPE)
    labels[2:7], labels[8:, 9:] = 1, 300
    found.set_context(
        [write(tmp_path / "i.nii", values(0, SHAPE))], [write(tmp_path / "t.nii", labels, kind=np.uint16)]
    )
    answer = found(tmp_path / "i.nii")
    assert np.array_equal(answer.labels, labels)
    assert answer.labels.dtype == np.uint16
    assert answer.voxels == {k: int((labels == k).sum()) for k in (1, 300)}


def test_images_come_back_in_units_and_type(tmp_path):
    found = predictor(task=tasks.Denoising())
    found.rule = Window(0, 200)
    array = (200 * values(0, SHAPE)).astype(np.int16)
    path = write(tmp_path / "a.nii", array, kind=np.int16)
    found.set_context([path], [path])
    answer = found(path)
    assert answer.image.dtype == np.int16
    assert np.abs(answer.image.astype(int) - array).max() <= 1


def test_several_examples_and_one_memory_of_them(tmp_path):
    found = predictor(plan=NextScale(single=True))
    pairs = [(write(tmp_path / f"{k}.nii", values(k, (9 + k, 8, 20))), k) for k in range(3)]
    masks = [write(tmp_path / f"m{k}.nii", values(k, (9 + k, 8, 20)) > 0.5, kind=np.uint8) for _, k in pairs]
    found.set_context([path for path, _ in pairs], masks)
    answers = [found(pairs[k][0]).labels for k in (0, 1, 0)]
    assert np.array_equal(answers[0], answers[2])
    assert answers[1].shape == (10, 8, 20)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """One example, one query, the weights of a tiny network for volumes, and `mvg predict` on them."""
    entry = EntryPoint("predict", "mvg.prediction.predict:predict", cli.GROUP)
    monkeypatch.setattr(cli, "commands", lambda: {"predict": entry})
    monkeypatch.chdir(tmp_path)
    write("context/images/a.nii.gz", values(1, (9, 20, 12)))
    write("context/labels/a.nii.gz", values(1, (9, 20, 12)) > 0.5, kind=np.uint8)
    write("queries/q.nii.gz", values(0, SHAPE), orientation=ORIENTATIONS[29], codes=(2, 4))
    weights.save("weights", small(), {"segmentation": tasks.Segmentation(), "denoising": tasks.Denoising()})

    def run(*options):
        words = {"--weights": "weights", "--context": "context", "--input": "queries", "--output": "out"}
        main(["predict", *itertools.chain(*words.items()), "--task", "segmentation", "--preview", *options])

    return run


def test_the_command_writes_the_answer_on_the_grid_of_its_query(command):
    command("--context-windows", "[same-place, whole]")
    before, after = nibabel.load("queries/q.nii.gz"), nibabel.load("out/q.nii.gz")
    assert after.shape == before.shape
    assert np.abs(after.affine - before.affine).max() <= 1e-4
    assert (int(after.header["sform_code"]), int(after.header["qform_code"])) == (2, 4)
    facts = json.loads(Path("out/q.json").read_text())
    assert not facts["next_scale"]["init_args"]["single"]
    assert facts["classes"]["1"]["voxels"] == (stored("out/q.nii.gz") == 1).sum()
    assert Image.open("out/q.preview.png").size[0] > 100


def test_the_command_is_what_the_class_computes(command):
    command("--task", "denoising", "--context", "context/images", "--targets", "context/images", "--scales", "full")
    found = ScalePredictor.from_pretrained("weights", "denoising", plan=NextScale(single=True))
    found.set_context(["context/images/a.nii.gz"], ["context/images/a.nii.gz"])
    assert np.array_equal(found("queries/q.nii.gz").image, stored("out/q.nii.gz"))


def test_a_coarser_scale_changes_the_answer(command):
    command("--task", "denoising", "--targets", "context/images", "--context", "context/images")
    several = stored("out/q.nii.gz")
    command("--task", "denoising", "--targets", "context/images", "--context", "context/images", "--scales", "full",
            "--overwrite")  # fmt: skip
    assert np.abs(several - stored("out/q.nii.gz")).max() > 1e-4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--context-windows", "[foregrond]"], "foreground"),
        (["--overlap", "1"], "`overlap` must be in [0, 1), got 1"),
        (["--focus", "0.1", "--scales", "full"], "`focus` needs a coarser answer"),
        (["--focus", "0.1", "--scales", "whole"], "`focus` needs a coarser answer"),
        (["--slices", "axial"], "`slices` are for 2D networks"),
        (["--input", "p.png"], "answers volumes"),
        (["--context", "pictures"], "needs volumes as examples"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(options, said, command, capsys):
    for path in ("p.png", "pictures/images/a.png", "pictures/labels/a.png"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ones((8, 8), np.uint8)).save(path)
    with pytest.raises(SystemExit):
        command(*options)
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not Path("out").exists()


def test_the_plan_counts_the_windows_that_are_shown():
    rules = Several([retrieval_of(["same-place", "nearest"]), Foreground(2)])
    assert shown_at_once(predictor(plan=NextScale(retrieval=rules)), 6) == 24
    assert shown_at_once(predictor(), 6) == 6


def test_a_volume_that_shows_nothing_is_told(tmp_path, caplog):
    found, truth = predictor(), values(1, SHAPE) > 0.5
    found.set_context([write(tmp_path / "i.nii", values(0, SHAPE))], [write(tmp_path / "t.nii", truth, kind=np.uint8)])
    assert "alone" not in caplog.text
    found(write(tmp_path / "q.nii", np.full(SHAPE, 7)))
    assert "q.nii holds the value 7 alone" in caplog.text


def test_each_kind_of_network_names_the_class_that_takes_it(tmp_path):
    weights.save(tmp_path / "w", small(), {"segmentation": tasks.Segmentation()})
    with pytest.raises(ValueError, match="ScalePredictor"):
        VolumePredictor.from_pretrained(tmp_path / "w")
    with pytest.raises(ValueError, match="VolumePredictor"):
        predictor(Told((8, 8)))


def test_a_volume_needs_a_context(tmp_path):
    with pytest.raises(ValueError, match="set_context"):
        predictor()(write(tmp_path / "a.nii", values()))
    empty = write(tmp_path / "a.nii", np.zeros(SHAPE))
    with pytest.raises(ValueError, match="show no class"):
        predictor().set_context([empty], [empty])


def test_boxes_are_refused_before_anything_is_asked(tmp_path):
    image = write(tmp_path / "i.nii", values(0, SHAPE) > 0.5, kind=np.uint8)
    with pytest.raises(ValueError, match="Detection answers boxes, which networks for volumes do not write"):
        predictor(task=tasks.Detection()).set_context([image], [image])


def test_windows_are_left_out_of_label_maps_alone():
    with pytest.raises(ValueError, match=r"`focus` leaves out .* but Denoising paints images"):
        predictor(task=tasks.Denoising(), plan=NextScale(focus=0.1))
