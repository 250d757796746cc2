"""Answers in common batches are those of the predictors, one by one."""

import nibabel
import numpy as np
import pytest
import torch

from benchmarks.answering import answer_queries, is_simple, prepare_picture, prepare_volume
from benchmarks.entrant import filled
from mvg.data.intensity import Window
from mvg.models import CanvasViT, PatchStem
from mvg.prediction.predictor import Predictor
from mvg.prediction.rasters import read_raster
from mvg.prediction.scans import read_scan
from mvg.prediction.volume_predictor import VolumePredictor
from tasks import Denoising, Detection, Segmentation


def flat(task):
    torch.manual_seed(0)
    network = CanvasViT([16, 16], width=32, depth=1, heads=2, stem=PatchStem(8))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return Predictor(network, task, window=(0.0, 1.0))


def values(rng, shape, task):
    image = rng.random(shape).astype(np.float32)
    return image, (image > 0.6).astype(np.uint8) if task.is_label else image[::-1].copy()


@pytest.mark.parametrize("task", [Segmentation(scheme="binary", channels=1), Denoising()], ids=["label", "image"])
def test_pictures(task, tmp_path):
    rng, predictor = np.random.default_rng(0), flat(task)
    predictor.set_context(*zip(*(values(rng, (20, 24), task) for _ in range(2)), strict=True))
    paths = []
    for number, shape in enumerate([(20, 24), (30, 18), (16, 16)]):
        paths.append(tmp_path / f"{number}.npy")
        np.save(paths[-1], values(rng, shape, task)[0])
    made = answer_queries(predictor, [prepare_picture(predictor, read_raster(path)) for path in paths])
    for answer, path in zip(made, paths, strict=True):
        expected = predictor(path).painted
        assert answer.shape == expected.shape
        assert answer == pytest.approx(expected, abs=1e-5)
    assert len(np.unique(made[0])) > 1


@pytest.mark.parametrize("task", [Segmentation(scheme="binary", channels=1), Denoising()], ids=["label", "image"])
@pytest.mark.parametrize("trim", [False, True])
def test_volumes(task, trim, tmp_path):
    rng = np.random.default_rng(1)
    rule = Window(0, 1)
    predictor = VolumePredictor(flat(task), "coronal", rule, 2, "same-position", target_rule=rule, trim=trim)

    def write(name, array):
        nibabel.Nifti1Image(array, np.diag([2.0, 1.0, 3.0, 1.0])).to_filename(tmp_path / name)
        return tmp_path / name

    pairs = [values(rng, (18, 9, 14), task) for _ in range(2)]
    predictor.set_context(*([write(f"{part}{k}.nii", pair[part]) for k, pair in enumerate(pairs)] for part in (0, 1)))
    scans = []
    for number, shape in enumerate([(18, 9, 14), (12, 20, 10)]):
        image = np.pad(values(rng, shape, task)[0], 2)
        scans.append(read_scan(write(f"query{number}.nii", image)))
    assert is_simple(predictor)
    made = answer_queries(predictor, [prepare_volume(predictor, scan) for scan in scans])
    for answer, scan in zip(made, scans, strict=True):
        assert answer == pytest.approx(predictor(scan).painted, abs=1e-5)
    assert len(np.unique(made[0])) > 1


def test_boxes_are_read_slice_by_slice():
    predictor = flat(Detection())
    predictor.set_context([np.random.rand(20, 20).astype("f4")], [np.eye(20, dtype=np.uint8)])
    assert not is_simple(predictor)


def test_boxes_are_filled_with_their_scores_the_higher_one_on_top():
    made = filled((4, 5), np.array([[0, 0, 3, 3], [2, 2, 4, 5]]), np.array([0.9, 0.6]))
    assert made[2, 2] == pytest.approx(0.9)
    assert made[3, 4] == pytest.approx(0.6)
    assert made[0, 4] == 0
