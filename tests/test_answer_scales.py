"""Images of any size for 2D networks: whole at the network's size, or in windows that keep every pixel."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_predictor import SIZE, Copy, Oracle, blob, tiny
from test_volume_predictor import values, write

import tasks
from mvg import weights
from mvg.cli import main
from mvg.data import Window
from mvg.episode import Pair
from mvg.models import CanvasViT
from mvg.next_scale import NextScale
from mvg.prediction.passes import bytes_of
from mvg.prediction.predictor import Predictor
from mvg.prediction.scales import plan_of
from mvg.prediction.volume_predictor import VolumePredictor


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)


class Told(Oracle):
    """Paints the mean target of its examples, which windows show at the query's place."""

    def answer(self, image, memory, coarse=None):
        return memory[1].mean(1).expand(len(image), *memory[1].shape[2:]) * self.scale


@pytest.mark.parametrize(("axes", "task", "adapted", "whole"), [
    (2, tasks.Segmentation(), False, True),
    (2, tasks.Denoising(), False, False),
    (2, tasks.Denoising(), True, True),
    (2, tasks.Synthesis(), False, True),
    (3, tasks.Segmentation(), False, False),
    (3, tasks.Denoising(), True, False),
])  # fmt: skip
def test_what_restores_the_query_is_answered_in_windows_and_all_else_whole(axes, task, adapted, whole):
    assert (plan_of("auto", task, axes, adapted=adapted) is None) == whole


@pytest.mark.parametrize("size", [(75, 41), (20, 90), (10, 12), SIZE])
@pytest.mark.parametrize("scales", ["full", "coarse-to-fine"])
def test_windows_keep_every_pixel(size, scales):
    query = noise(*size)
    predictor = Predictor(Copy(), tasks.Denoising(), plan=plan_of(scales, tasks.Denoising(), 2))
    predictor.set_context([query], [query])
    assert np.array_equal(predictor(query).image, query)


def test_large_images_are_answered_at_four_times_the_networks_size_and_enlarged():
    query = np.add.outer(np.arange(300), np.arange(280)).astype(np.uint16) * 100
    task, asked = tasks.Denoising(), []
    network = Copy()
    network.answer = lambda image, *_: asked.append(len(image)) or image
    predictor = Predictor(network, task, plan=plan_of("coarse-to-fine", task, 2, batch=4))
    predictor.set_context([query], [query])
    assert np.abs(predictor(query).image.astype(float) - query)[4:-4, 4:-4].max() < 200
    assert sum(asked) < 60


def test_whole_images_are_blurred():
    query = noise(75, 41)
    predictor = Predictor(Copy(), tasks.Denoising())
    predictor.set_context([query], [query])
    assert np.abs(predictor(query).image.astype(float) - query).mean() > 20


def test_the_answer_is_that_of_the_roll_out():
    network, plan = tiny(), NextScale(overlap=0.5)
    image, target, query = (blob(50, 40, seed)[0] for seed in range(3))
    predictor = Predictor(network, tasks.Denoising(), plan=plan)
    predictor.set_context([image], [target])
    shown, wanted, asked = (torch.from_numpy(each)[None] / 255 for each in (image, target, query))
    painted = plan(network, asked, plan.read(network, [Pair(shown, wanted)]))
    expected = np.rint(255 * painted[0].clamp(0, 1).numpy())
    assert np.abs(predictor(query).image.astype(float) - expected).max() <= 1


def test_label_maps_can_be_answered_in_windows_too():
    _, labels = blob(70, 50)
    predictor = Predictor(Told(), tasks.Segmentation(), plan=NextScale())
    predictor.set_context([noise(70, 50)], [labels])
    assert np.array_equal(predictor(noise(70, 50)).labels, labels)


@pytest.mark.parametrize(("task", "size"), [(tasks.Segmentation(), SIZE), (tasks.Denoising(), (7, 9))])
def test_small_images_are_enlarged_unless_they_are_restored(task, size):
    seen, network = [], Copy()
    network.answer = lambda image, *_: seen.append(image[0, 0]) or image
    predictor = Predictor(network, task, plan=NextScale())
    shown, target = noise(7, 9), np.full((7, 9), 255 if not task.is_label else 1, np.uint8)
    predictor.set_context([shown], [target])
    answer = predictor(np.full((7, 9), 255, np.uint8))
    assert (answer.labels if task.is_label else answer.image).shape == (7, 9)
    assert tuple((seen[0] > 0.5).sum(k).max() for k in (0, 1)) == size


def test_mirrored_members_agree_with_a_network_that_copies():
    query = noise(50, 40)
    predictor = Predictor(Copy(), tasks.Denoising(), plan=NextScale(), members=3)
    predictor.set_context([query], [query])
    assert predictor(query).uncertainty.max() < 1e-5


@pytest.mark.parametrize("choice", ["spread", "nearest"])
@pytest.mark.parametrize("looks", ["image", "network"])
def test_slices_of_volumes_keep_every_voxel(choice, looks, tmp_path):
    network = Copy(1, 1, (16, 16)) if looks == "image" else tiny()
    flat = Predictor(network, tasks.Denoising(), plan=NextScale())
    found = VolumePredictor(flat, rule=Window(0, 1), slices="axial", choice=choice, looks=looks)
    path = write(tmp_path / "a.nii", values(0, (20, 37, 5)))
    found.set_context([path], [path])
    answer = found(path).image
    if looks == "image":
        assert np.abs(answer - values(0, (20, 37, 5))).max() < 1e-6
    assert answer.shape == (20, 37, 5)


def test_a_network_for_volumes_answers_the_whole_in_one_window():
    plan, network = plan_of("whole", tasks.Denoising(), 3), Copy(1, 1, (8, 8, 8))
    volume, asked = torch.rand(1, 20, 7, 33), []
    network.answer = lambda image, *_, **__: asked.append(tuple(image.shape)) or image
    answer = plan(network, volume, plan.read(network, [Pair(volume, volume)]))
    assert asked == [(1, 1, 8, 8, 8)]
    assert answer.shape == volume.shape


def test_focus_is_for_label_maps():
    with pytest.raises(ValueError, match=r"`focus` leaves out .* Denoising paints images"):
        Predictor(Copy(), tasks.Denoising(), plan=NextScale(focus=0.1))
    assert Predictor(Copy(), tasks.Segmentation(), plan=NextScale(focus=0.1)).plan is not None


def test_contexts_in_windows_count_as_held():
    predictor = Predictor(tiny(), tasks.Denoising(), plan=NextScale())
    predictor.set_context([noise(64, 64)] * 3, [noise(64, 64)] * 3)
    assert bytes_of(predictor.passes[0].memory) == 3 * 2 * 4 * (64 * 64 + 32 * 32)


def test_a_dry_run_tells_how_often_the_network_is_asked(tmp_path, capsys, monkeypatch):
    weights.save(tmp_path / "w", tiny(), tasks={"denoising": tasks.Denoising()})
    for name in ("context/images", "context/targets", "queries"):
        (tmp_path / name).mkdir(parents=True)
        Image.fromarray(noise(70, 50)).save(tmp_path / name / "a.png")
    words = ["predict", "--weights", tmp_path / "w", "--context", tmp_path / "context", "--input", tmp_path / "queries"]
    words = [str(word) for word in (*words, "--output", tmp_path / "out", "--scales", "coarse-to-fine")]
    main([*words, "--dry-run"])
    said = capsys.readouterr().out
    asked, embed = [], CanvasViT._ask
    monkeypatch.setattr(CanvasViT, "_ask", lambda *args: asked.append(len(args[1].image)) or embed(*args))
    main(words)
    assert f"the network is asked {sum(asked)} times" in said
    assert json.loads((tmp_path / "out/a.json").read_text())["next_scale"]["class_path"].endswith("NextScale")
