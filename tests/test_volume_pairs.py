"""Pairs of volumes: one scale where the query is restored, and the field of view that image and target share."""

import numpy as np
import pytest
import torch
from test_next_scale import Told
from test_predictor import Copy, Oracle
from test_volume_predictor import grid, values, write

import tasks
from mvg import ScalePredictor, VolumePredictor
from mvg.adaptation.volumes import read_whole_volumes
from mvg.prediction.predictor import Predictor
from mvg.prediction.rasters import to_units

SHAPE = (9, 8, 10)


def noisy(seed=0):
    """A body of 40 with an organ of 140 in air of 0, and the same with noise."""
    clean = np.zeros(SHAPE, np.float32)
    clean[1:-1, 1:-1] = 40
    clean[3:6, 3:6] = 140
    return clean, clean + 40 * np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32) * (clean > 0)


def predictors(task, flat=None, deep=None):
    flat = flat or Oracle(1, 1, SHAPE[1::-1])
    return ScalePredictor(deep or Told(), task), VolumePredictor(Predictor(flat, task), slices="axial", examples=99)


@pytest.mark.parametrize("kind", [0, 1], ids=["windows", "slices"])
def test_what_is_painted_right_is_right_in_units(kind, tmp_path):
    clean, image = noisy()
    found = predictors(tasks.Denoising())[kind]
    found.set_context([write(tmp_path / "i.nii", image)], [write(tmp_path / "t.nii", clean)])
    assert np.abs(found(tmp_path / "i.nii").image - clean)[clean > 0].max() < 1


def test_adaptation_sees_the_scale_of_prediction(tmp_path):
    clean, image = noisy()
    found = predictors(tasks.Denoising())[0]
    paths = [write(tmp_path / "i.nii", image)], [write(tmp_path / "t.nii", clean)]
    found.set_context(*paths)
    (pair,) = read_whole_volumes(found, *paths)
    assert np.array_equal(pair.example.target[0].numpy(), found.context[0].target)


class CopyVolume(Told):
    """Paints the query."""

    def answer(self, image, memory, coarse=None):
        return image * 1.0


@pytest.mark.parametrize("kind", [0, 1], ids=["windows", "slices"])
def test_what_lies_beyond_the_limits_is_kept(kind, tmp_path):
    image = np.rint(noisy()[1] + 100 * (noisy()[0] > 0))
    image[4, 4, :2], image[0, 0] = 4000, -30
    found = predictors(tasks.Denoising(), Copy(1, 1, SHAPE[1::-1]), CopyVolume())[kind]
    path = write(tmp_path / "i.nii", image, kind=np.int16)
    found.set_context([path], [path])
    answer = found(path)
    assert answer.limits[1] < 1000
    assert np.array_equal(answer.image, image)


def test_air_that_is_not_asked_stays(tmp_path):
    image = np.rint(noisy()[1])
    image[0], image[:, -1] = -30, 3
    found = predictors(tasks.Denoising())[1]
    found.trim = True
    path = write(tmp_path / "i.nii", image, kind=np.int16)
    found.set_context([path], [path])
    answer = found(path).image
    assert np.array_equal(answer[0], image[0])
    assert np.array_equal(answer[:, -1], image[:, -1])


def test_what_fills_a_hole_is_not_darkened():
    query = np.array([[[0.0, 50.0, 10.0, 300.0]]])
    painted = torch.tensor([[[0.5, 0.5, 0.0, 1.0]]])
    restored = to_units(painted, (20, 120), np.dtype(np.float32), query)
    assert np.allclose(restored, [[70, 70, 10, 300]])
    assert np.allclose(to_units(painted, (20, 120), np.dtype(np.float32)), [[70, 70, 20, 120]])


@pytest.mark.parametrize("kind", [0, 1], ids=["windows", "slices"])
def test_where_a_target_was_not_seen_it_spoils_nothing(kind, tmp_path):
    task = tasks.Synthesis(sources=["image"], targets=["ct"])
    found = predictors(task)[kind]
    wanted = -500 - 400 * values(1, (9, 8, 5))
    image = write(tmp_path / "i.nii", 100 * values(0, SHAPE))
    found.set_context([image], [write(tmp_path / "t.nii", wanted, grid())])
    low, high = found.units.limits
    assert -901 < low < high < -499
    planes = found.predictor.passes[0].context_targets if kind else np.moveaxis(found.context[0].target, 2, 0)
    assert len(planes) == 5
    assert 0 <= float(planes.min()) < 0.1 < 0.9 < float(planes.max()) <= 1
