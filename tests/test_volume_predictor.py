"""Volumes in, volumes out: the answer lies on the grid of its file, whatever that grid is."""

import itertools
import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from nibabel.orientations import apply_orientation, inv_ornt_aff
from scipy.spatial.transform import Rotation
from test_predictor import Copy, Oracle

import tasks
from mvg import VolumePredictor
from mvg.data import Percentiles, Window
from mvg.data.location import Location
from mvg.data.preparation import Recipe, load, prepare
from mvg.prediction.context import Example
from mvg.prediction.predictor import Predictor
from mvg.prediction.preview import chosen_slices, colour_of, draw_slices
from mvg.prediction.scans import read_scan
from mvg.prediction.slices import Slice, beside, choose_slices, spread_out
from mvg.prediction.trained import stored_rule

SHAPE = (8, 9, 10)
SIZE = (9, 8)
"""Height and width of an axial slice, so that nothing is resampled."""
ORIENTATIONS = [
    np.column_stack([order, flips])
    for order in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


class Top(Oracle):
    """Paints what is brighter than one half in the upper half of each picture."""

    def answer(self, image, memory, coarse=None):
        painted = (image > 0.5).float() * self.scale
        painted[:, :, image.shape[2] // 2 :] = 0
        return painted


class Share(Oracle):
    """Paints the brightness that its examples have in the mean."""

    def answer(self, image, memory, coarse=None):
        return torch.full_like(image, float(memory[0].mean())) * self.scale


def values(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def grid(spacing=(0.7, 1.3, 2.9), oblique=True):
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", [8, -11, 6], degrees=True).as_matrix() if oblique else np.eye(3)
    affine[:3, :3], affine[:3, 3] = turn * spacing, (-20, 13, 40)
    return affine


def write(path, array, affine=None, orientation=ORIENTATIONS[0], kind=np.float32, codes=(1, 1)):
    """Writes a RAS+ array in another orientation; physically it stays where it is."""
    affine = grid() if affine is None else affine
    moved = apply_orientation(array, orientation).astype(kind)
    image = nibabel.Nifti1Image(moved, affine @ inv_ornt_aff(orientation, array.shape))
    image.set_sform(image.affine, codes[0])
    image.set_qform(image.affine, codes[1])
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)
    return Path(path)


def predictor(network=None, task=None, folder=Path("."), classes=1, **options):
    """Answers after one example volume, whose label map shows all classes on every slice."""
    found = VolumePredictor(Predictor(network or Top(1, 1, SIZE), task or tasks.Segmentation()), **options)
    found.rule = Window(0, 1)
    labels = np.arange(np.prod(SHAPE)).reshape(SHAPE, order="F") % (classes + 1)
    image = write(folder / "example" / "image.nii", values(1))
    found.set_context([image], [write(folder / "example" / "labels.nii", labels, kind=np.uint16)])
    return found


# ---------------------------------------------------------------- the grid


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    return predictor(folder=tmp_path_factory.mktemp("top"))


@pytest.mark.parametrize("number", range(48))
def test_every_orientation_gets_the_same_answer_on_its_own_grid(number, top, tmp_path):
    front = np.arange(SHAPE[1])[None, :, None] >= SHAPE[1] - SIZE[0] // 2  # on top of an axial slice
    expected = (values() > 0.5) & front
    query = write(tmp_path / "a.nii", values(), orientation=ORIENTATIONS[number], codes=(2, 4))
    answer = top(query)
    assert np.array_equal(answer.labels, apply_orientation(expected, ORIENTATIONS[number]))
    assert np.array_equal(answer.affine, nibabel.load(query).affine)
    assert answer.axis == 2


@pytest.mark.parametrize("slices", ["axial", "coronal", "sagittal"])
def test_each_slicing_axis_puts_every_voxel_back(slices, tmp_path):
    found = predictor(Copy(1, 1, (5, 5)), tasks.Denoising(), tmp_path, slices=slices)
    field = np.add.outer(np.add.outer(np.linspace(0, 0.3, 5), np.linspace(0, 0.4, 5)), np.linspace(0, 0.3, 5))
    answer = found(write(tmp_path / "a.nii", field, orientation=ORIENTATIONS[22]))
    assert np.abs(answer.image - apply_orientation(field, ORIENTATIONS[22])).max() < 1e-6


@pytest.mark.parametrize("shape", [(8, 9, 1), (8, 9, 10, 1)])
def test_one_slice_and_idle_axes_keep_their_shape(shape, top, tmp_path):
    path = tmp_path / "a.nii"
    nibabel.Nifti1Image(values(shape=shape), grid()).to_filename(path)
    answer = top(path)
    assert answer.labels.shape == shape
    assert answer.labels.any()


def test_volumes_in_mm3_follow_the_voxel(top, tmp_path):
    answer = top(write(tmp_path / "a.nii", values()))
    assert answer.voxels == {1: int((answer.labels == 1).sum())}
    assert answer.volumes[1] == pytest.approx(answer.voxels[1] * 0.7 * 1.3 * 2.9, rel=1e-4)


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.float32])
def test_images_keep_units_and_type(kind, tmp_path):
    found = predictor(Copy(1, 1, SIZE), tasks.Denoising(), tmp_path)
    found.rule = Window(0, 200)
    array = (200 * values()).astype(kind)
    answer = found(write(tmp_path / "a.nii", array, kind=kind))
    assert answer.image.dtype == kind
    assert np.abs(answer.image.astype(np.float64) - array).max() < 1e-4


def test_scaled_files_are_answered_in_their_units_as_float(tmp_path):
    found = predictor(Copy(1, 1, SIZE), tasks.Denoising(), tmp_path)
    found.rule = Window(-1, 4)
    image = nibabel.Nifti1Image((100 * values()).astype(np.int16), grid())
    image.header.set_slope_inter(0.01, 2)
    image.to_filename(tmp_path / "a.nii")
    true = nibabel.load(tmp_path / "a.nii").get_fdata()
    answer = found(tmp_path / "a.nii")
    assert answer.image.dtype == np.float32
    assert np.abs(answer.image - true).max() < 1e-5


@pytest.mark.parametrize(("highest", "kind"), [(255, np.uint8), (256, np.uint16)])
def test_label_maps_take_the_smallest_type(highest, kind, tmp_path):
    found = predictor(folder=tmp_path)
    labels = np.where(values() > 0.7, highest, values() > 0.5)
    found.set_context([write(tmp_path / "i.nii", values())], [write(tmp_path / "t.nii", labels, kind=np.uint16)])
    assert found.classes == [1, highest]
    assert found(write(tmp_path / "a.nii", values())).labels.dtype == kind


def test_batches_do_not_change_the_answer(top, tmp_path):
    query = write(tmp_path / "a.nii", values())
    whole = top(query).labels
    top.predictor.batch = 3
    assert np.array_equal(top(query).labels, whole)


def test_many_classes_go_to_the_pass_that_claims_them_most(tmp_path):
    found = predictor(Oracle(1, 1, SIZE), folder=tmp_path, classes=3, examples=10)
    answer = found(tmp_path / "example" / "image.nii")
    assert np.array_equal(answer.labels, np.asarray(nibabel.load(tmp_path / "example" / "labels.nii").dataobj))


# ---------------------------------------------------------------- intensity and axis


CT, DOSE = {"image": {"class_path": "mvg.data.Window", "init_args": {"low": 800, "high": 1300}}}, {}


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({}, Percentiles),
        ({"a": {"intensity": CT}}, Window),
        ({"a": {"intensity": CT}, "b": {"intensity": CT}}, Window),
        ({"a": {"intensity": CT}, "b": {}}, Percentiles),
        ({"a": {"intensity": {"image": {"class_path": "mvg.data.FullScale"}}}}, Percentiles),
    ],
)
def test_the_one_rule_of_training_is_that_of_volumes(sources, expected):
    assert isinstance(stored_rule(sources), expected)


def test_volumes_reach_the_network_as_in_training(tmp_path):
    path = write(tmp_path / "a.nii", 300 * values() ** 2 - 50, orientation=ORIENTATIONS[22])
    trained = load(prepare({"image": Location(path)}, Recipe(frozenset(), "image", {}, "auto", {})).arrays["image"])
    found = VolumePredictor(Predictor(Copy(1, 1, SIZE), tasks.Denoising()), examples=99)
    found.set_context([path], [path])
    answer, context = found(path), found.predictor.passes[0].context_images[:, 0].numpy()
    low, high = answer.limits
    for shown in (context, ((answer.slices - low) / (high - low)).clip(0, 1)):
        assert np.abs(shown - trained).max() < 2e-5


def test_volumes_of_one_context_are_cut_along_one_axis(tmp_path):
    found = VolumePredictor(Predictor(Top(1, 1, SIZE), tasks.Segmentation()))
    affines = [grid((1, 1, 3)), grid((1, 3, 1))]
    images = [write(tmp_path / f"{k}.nii", values(), affine) for k, affine in enumerate(affines)]
    masks = [write(tmp_path / f"{k}_mask.nii", values() > 0.5, affine) for k, affine in enumerate(affines)]
    with pytest.raises(ValueError, match=r"1\.nii: it is cut along another axis than 0\.nii"):
        found.set_context(images, masks)
    found.set_context(images[:1], masks[:1])
    assert found(images[1]).axis == 2


def test_targets_are_brought_onto_the_grid_of_their_image(tmp_path):
    found = predictor(folder=tmp_path)
    mask = np.zeros(SHAPE)
    mask[:, :, 2:5] = 1
    image = write(tmp_path / "i.nii", values())
    found.set_context([image], [write(tmp_path / "t.nii", mask, orientation=ORIENTATIONS[37])])
    assert all(target.all() for target in found.predictor.passes[0].context_targets)


# ---------------------------------------------------------------- choice


def candidates():
    blank = Example(torch.zeros(1, 2, 2), torch.zeros(2, 2))
    shown = [{1: 20}] * 5 + [{1: 20, 2: 9}] * 2 + [{2: 3}] * 3
    return [Slice(blank, k / 9, pixels) for k, pixels in enumerate(shown)]


@pytest.mark.parametrize(
    ("classes", "number", "position", "expected"),
    [
        ([1], 3, None, [1, 3, 5]),
        ([1], 99, None, [0, 1, 2, 3, 4, 5, 6]),
        ([1], 2, 0.2, [1, 2]),
        ([1], 2, 1.0, [5, 6]),
        ([2], 4, None, [5, 6]),
        ([1, 2], 2, 0.0, [0, 5]),
    ],
)
def test_slices_that_show_the_class_are_chosen_by_position(classes, number, position, expected):
    chosen = choose_slices(candidates(), classes, number, spread_out if position is None else beside(position))
    assert [round(9 * entry.position) for entry in chosen] == expected


def test_same_position_shows_each_slice_what_lies_beside_it(tmp_path):
    found = predictor(Share(1, 1, SIZE), tasks.Denoising(), tmp_path, choice="same-position", examples=1, bins=10)
    ramp = np.broadcast_to(np.linspace(0.1, 1, 10), SHAPE)
    path = write(tmp_path / "ramp.nii", ramp)
    found.set_context([path], [path])
    assert len(found.contexts) == 10
    assert np.abs(found(write(tmp_path / "a.nii", values())).image - ramp).max() < 1e-5


@pytest.mark.parametrize("choice", ["same-position", "spread"])
def test_slices_that_show_the_change_are_the_examples_of_a_restoration(choice, tmp_path):
    whole = 0.2 + 0.8 * values()
    holed = whole.copy()
    holed[2:6, 2:6, 3:5] = 0
    paths = [write(tmp_path / f"{name}.nii", array) for name, array in (("holed", holed), ("whole", whole))]
    flat = Predictor(Copy(1, 1, SIZE), tasks.Inpainting())
    found = VolumePredictor(flat, rule=Window(0, 1), slices="axial", choice=choice, examples=2)
    found.set_context(paths[:1], paths[1:])
    for passes in found.contexts:
        for image in passes[0].context_images:
            assert (image == 0).sum() == 16
    found.set_context(paths[1:], paths[1:])
    assert len(found.contexts[0][0].context_images) == 2


def test_masks_of_255_are_class_1_and_the_log_says_so(tmp_path, caplog):
    found = predictor(folder=tmp_path)
    mask = write(tmp_path / "t.nii", 255 * (values() > 0.5), kind=np.uint8)
    with caplog.at_level(logging.INFO):
        found.set_context([write(tmp_path / "i.nii", values())], [mask])
    assert found.classes == [1]
    assert "255 is read as class 1" in caplog.text


def test_a_class_too_small_for_the_network_is_named(tmp_path, caplog):
    found = VolumePredictor(Predictor(Top(1, 1, SIZE), tasks.Segmentation()), slices="axial")
    labels = np.zeros((64, 64, 3))
    labels[:20, :20], labels[40, 41] = 1, 7
    image = write(tmp_path / "i.nii", values(shape=labels.shape))
    found.set_context([image], [write(tmp_path / "t.nii", labels, kind=np.uint8)])
    assert found.classes == [1]
    assert "[7]" in caplog.text


def test_colours_of_several_classes_are_one_pass(tmp_path):
    task = tasks.Segmentation(scheme="random", channels=3)
    found = predictor(Oracle(1, 3, SIZE), task, tmp_path, classes=3, examples=30)
    assert [len(passes) for passes in found.contexts] == [1]
    answer = found(tmp_path / "example" / "image.nii")
    assert np.array_equal(answer.labels, np.asarray(nibabel.load(tmp_path / "example" / "labels.nii").dataobj))


def test_a_volume_needs_a_context(tmp_path):
    with pytest.raises(ValueError, match="set_context"):
        VolumePredictor(Predictor(Top(1, 1, SIZE), tasks.Segmentation()))(write(tmp_path / "a.nii", values()))


def test_preview_shows_slices_in_their_true_proportions():
    page = draw_slices(torch.zeros(9, 10, 20), torch.zeros(9, 10, 20), (1.0, 3.0), "x", size=30)
    assert page.width == pytest.approx(2 * 6 * 30, abs=20)


def test_preview_shows_slices_that_are_answered_how_sure_they_are_and_names():
    answers = torch.zeros(20, 6, 6, dtype=torch.int64)
    answers[12:15, 2:4] = 2
    assert chosen_slices(answers) == [12, 13]
    doubt = torch.zeros(20, 6, 6)
    doubt[12, 0], doubt[12, 5] = 1.0, 0.5
    plain = draw_slices(torch.zeros(20, 6, 6), answers, (1.0, 1.0), "x", size=60)
    page = draw_slices(torch.zeros(20, 6, 6), answers, (1.0, 1.0), "x", 60, doubt, {2: "liver"})
    assert (page.width, page.height) == (plain.width + 64, plain.height + 22)
    assert [page.getpixel((160, y)) for y in (45, 95)] == [(255, 255, 0), (255, 0, 0)]
    assert page.getpixel((8, plain.height + 8)) == tuple(round(255 * part) for part in colour_of(2))


def test_a_scan_knows_its_file(tmp_path):
    scan = read_scan(write(tmp_path / "a.nii", values(), orientation=ORIENTATIONS[30]))
    assert np.allclose(scan.volume.values, values())
    assert scan.voxel == pytest.approx(0.7 * 1.3 * 2.9, rel=1e-5)
