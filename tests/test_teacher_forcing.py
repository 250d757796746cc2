"""Training in windows of all levels: what is cut, what is shown as coarser answer, and that a fit runs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_data import folder_of_volumes, source_of
from test_next_scale import mask, small, volume

from mvg.cli import main
from mvg.data import EpisodeDataset, SyntheticAnatomy
from mvg.data.geometry import fit, resize
from mvg.data.subject import Item, Subject
from mvg.episode import Episode, Pair
from mvg.next_scale import Pyramid, TeacherForcing, levels
from mvg.next_scale.teacher import draw_place
from mvg.weights import load
from tasks import Denoising, Segmentation

WINDOW = (16, 16, 16)
EXACT = TeacherForcing(first=0.0, blur=0.0, noise=0.0)


def dataset(teacher=None, source=None, task=None, split="train", **options):
    source = source or SyntheticAnatomy([32, 32, 20], anatomies=3, val_anatomies=2, subjects=4, classes=(2, 3))
    options = {"context_size": (1, 2), "batch_size": 2, "next_scale": teacher or TeacherForcing()} | options
    return EpisodeDataset({"toy": source}, {"task": task or Segmentation()}, split, 24, WINDOW, **options)


def subject(shape, spacing=(), seed=0):
    return Subject({"image": volume(shape, seed)}, {}, Item("a", "a", frozenset()), spacing)


def rng(seed=0):
    return np.random.default_rng(seed)


# ---------------------------------------------------------------- episodes


def test_batches_are_of_one_kind_and_both_kinds_occur():
    episodes = dataset(TeacherForcing(first=0.5))
    kinds = [[episodes.is_fine(index) for index in (k, k + 1)] for k in range(0, 24, 2)]
    assert all(first == second for first, second in kinds)
    assert len({first for first, _ in kinds}) == 2
    assert not any(dataset(split="val").is_fine(index) for index in range(24))


def test_episodes_of_finer_levels_show_the_coarser_one_and_are_drawn_again_alike():
    first, again = dataset(EXACT), dataset(EXACT)
    episode, same = Episode.collate([first[0], first[1]]), Episode.collate([again[0], again[1]])
    assert episode.coarse_image.shape == episode.image.shape
    assert episode.coarse_target.shape == episode.target.shape
    assert torch.equal(episode.coarse_target, same.coarse_target)
    assert dataset(TeacherForcing(first=1.0))[0].coarse is None
    assert dataset(split="val")[0].coarse is None


def test_validation_brings_whole_volumes_to_a_size_of_its_own():
    teacher = TeacherForcing(whole=[24, 20, 16])
    assert dataset(teacher, split="val")[0].image.shape == (1, 1, 24, 20, 16)
    assert dataset(teacher)[0].image.shape == (1, 1, *WINDOW)


def test_windows_show_what_is_asked_for():
    episodes = dataset(TeacherForcing(first=0.0, same_place=0.0))
    shown = [episodes[index] for index in range(12)]
    assert np.mean([bool(e.target.any()) for e in shown]) > 0.9
    assert np.mean([bool(target.any()) for e in shown for target in e.context_targets[0]]) > 0.9


def test_windows_of_the_same_place_are_those_of_inference():
    image = volume((40, 33, 9))
    subjects = [subject((40, 33, 9)), subject((20, 70, 9))]
    teacher = TeacherForcing(same_place=1.0)
    (first, second), step = teacher.place(subjects, [None, None], WINDOW, True, rng(3))
    scales = levels((40, 33, 9), WINDOW)
    found = fit(subjects[0], first).images["image"]
    pyramid = Pyramid(image, WINDOW)
    candidates = {n: scales[n].scale for n in range(1, 3)}
    assert any(np.allclose(np.array(first.box) / first.inner, scale, rtol=0.2) for scale in candidates.values())
    if first.box == first.inner:
        low = [n - start for n, start in zip(first.low, first.start, strict=True)]
        assert torch.equal(found, pyramid.image(2, low))
    assert len(step) == 3
    assert min(step) >= 1
    assert max(step) > 1
    assert second.shape == (20, 70, 9)


def test_the_first_level_is_the_whole_volume():
    (place,), step = TeacherForcing().place([subject((40, 33, 9))], [None], WINDOW, False, rng())
    assert place.low == (0, 0, 0)
    assert place.box == (40, 33, 9)
    assert place.inner == (16, 16, 9)
    assert step == (1, 1, 1)


def test_spacing_in_mm_decides_on_the_level_of_the_context():
    subjects = [subject((16, 16, 16), (4, 4, 4)), subject((64, 64, 64), (1, 1, 1))]
    (_, second), _ = TeacherForcing().place(subjects, [None, None], WINDOW, True, rng())
    assert second.box == (64, 64, 64)


@pytest.mark.parametrize("seed", range(5))
def test_windows_around_a_voxel_hold_it(seed):
    level, anchor = levels((40, 50, 9), WINDOW)[-1], torch.zeros(40, 50, 9, dtype=torch.bool)
    anchor[37, 3, 8] = True
    place = level.placement(level.around(draw_place(level, anchor, rng(seed))))
    spans = tuple(slice(low, low + box) for low, box in zip(place.low, place.box, strict=True))
    assert anchor[spans].any()


# ---------------------------------------------------------------- the coarser answer


def pair():
    return Pair(volume((16, 16, 16)), mask((16, 16, 16), 1))


def test_without_errors_the_coarser_answer_is_the_reduced_truth():
    target = resize(volume((5, 5, 5), 1), (16, 16, 16))
    found = EXACT.coarse(Pair(target, target), (2, 2, 1), False, rng())
    assert torch.allclose(found.target, resize(resize(target, (8, 8, 16)), (16, 16, 16)), atol=1e-6)
    assert torch.equal(found.image, found.target)


def test_errors_stay_small_and_in_range_and_differ():
    teacher = TeacherForcing()
    found = [teacher.coarse(pair(), (2, 2, 2), True, rng(seed)) for seed in (0, 0, 1)]
    exact = EXACT.coarse(pair(), (2, 2, 2), False, rng())
    assert torch.equal(found[0].target, found[1].target)
    assert not torch.equal(found[0].target, found[2].target)
    assert torch.equal(found[0].image, exact.image)
    assert 0 <= found[0].target.min() <= found[0].target.max() <= 1


def test_a_mask_stays_a_mask_of_about_its_size():
    target = torch.zeros(1, 16, 16, 16)
    target[:, 4:12, 4:12, 4:12] = 1
    found = [TeacherForcing().coarse(Pair(target, target), (2, 2, 2), True, rng(seed)).target for seed in range(20)]
    sizes = [float((answer > 0.5).sum()) / 512 for answer in found]
    assert 0.15 < min(sizes) < 1 < max(sizes) < 2


@pytest.mark.parametrize(
    ("options", "said"),
    [({"first": 1.5}, "`first` must be a share"), ({"jitter": 0.5}, "`jitter`"), ({"noise": -1}, "`noise`")],
)
def test_wrong_arguments_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        TeacherForcing(**options)


def test_a_crop_needs_whole_images():
    with pytest.raises(ValueError, match="set `crop` to null"):
        dataset(TeacherForcing(single=True), crop=(0.5, 1.0))


def test_with_a_crop_the_first_level_is_that_of_whole_images():
    mixed, alone = dataset(TeacherForcing(first=0.5), crop=(0.5, 1.0)), dataset(next_scale=None, crop=(0.5, 1.0))
    for index in range(0, 24, 2):
        episode, whole = mixed[index], alone[index]
        assert (episode.coarse is None) == (not mixed.is_fine(index))
        assert torch.equal(episode.image, whole.image) == (not mixed.is_fine(index))
    shown = dataset(crop=(0.5, 1.0), split="val")[0], dataset(next_scale=None, crop=(0.5, 1.0), split="val")[0]
    assert torch.equal(*(episode.image for episode in shown))


# ---------------------------------------------------------------- training


def test_networks_that_know_pairs_alone_take_the_coarser_answer_as_one_more():
    episode, network = dataset(EXACT)[0], small(WINDOW)
    folded = episode.coarse_as_context()
    assert folded.context_size == episode.context_size + 1
    assert torch.equal(folded.context_targets[:, -1], episode.coarse_target)
    assert not folded.context_weights[:, -1].any()
    assert torch.equal(network.loss(episode)["loss"], network.loss(folded)["loss"])


def test_volumes_of_a_folder_are_trained_whole(tmp_path):
    source = source_of(folder_of_volumes(tmp_path, cases=8, shape=(40, 24, 10)), slices=None)
    episode = dataset(EXACT, source, Denoising(), context_size=1)[0]
    assert episode.image.shape == (1, 1, *WINDOW)
    assert episode.coarse is not None


FIT = """
trainer:
  {max_epochs: 1, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false, log_every_n_steps: 1}
model:
  network: NETWORK
data:
  next_scale: {class_path: mvg.next_scale.TeacherForcing, init_args: {first: 0.5, whole: [20, 16, 16]}}
  sources:
    toy: {class_path: mvg.data.SyntheticAnatomy, init_args: {image_size: [32, 32, 16], anatomies: 4, subjects: 3}}
  tasks: {segmentation: {class_path: tasks.Segmentation}}
  batch_size: 1
  epoch_length: 6
  val_length: 1
  remembered: 4
"""
CANVAS = """{class_path: mvg.models.CanvasViT, init_args: {image_size: [16, 16, 16], width: 32, depth: 1, heads: 2,
  stem: {class_path: mvg.models.PatchStem, init_args: {patch: 8}}}}"""
MEDVERSE = """{class_path: mvg.models.Medverse, init_args: {image_size: [16, 16, 16], widths: [4, 8], blocks: 2}}"""


@pytest.mark.parametrize("network", [CANVAS, MEDVERSE], ids=["CanvasViT", "Medverse"])
def test_a_fit_leaves_a_network_for_volumes(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(FIT.replace("NETWORK", network))
    main(["fit", "--config", "tiny.yaml"])
    assert load("runs/tiny/weights").image_size == WINDOW
