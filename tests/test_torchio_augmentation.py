"""Transforms of TorchIO: images and labels move together, targets stay clean, episodes stay pure functions."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torchio
import yaml
from test_episodes import dataset, module, same

from mvg.cli import main
from mvg.data import Augmentation, Item, Subject, TorchIOAugmentation

SIZES = [(40, 48), (20, 24, 22)]
SPATIAL = [
    torchio.RandomAffine(scales=0.2, degrees=20, translation=3),
    torchio.RandomElasticDeformation(max_displacement=3),
    torchio.RandomFlip(axes=(0, 1), flip_probability=1),
    torchio.OneOf([torchio.RandomAffine(degrees=40), torchio.RandomFlip(axes=0, flip_probability=1)]),
]
INTENSITY = [
    torchio.RandomMotion(degrees=20, translation=5),
    torchio.RandomGhosting(intensity=(0.8, 1)),
    torchio.RandomSpike(intensity=(2, 3)),
    torchio.RandomBiasField(coefficients=1.0),
    torchio.RandomAnisotropy(downsampling=(3, 4)),
    torchio.RandomNoise(std=(0.2, 0.4)),
    torchio.RandomGamma(log_gamma=(0.3, 0.5)),
    torchio.OneOf([torchio.RandomBlur(std=(1, 2)), torchio.RandomSwap(patch_size=(4, 4, 1), num_iterations=9)]),
]
YAML = """
data:
  augmentation:
    class_path: mvg.data.TorchIOAugmentation
    init_args:
      first: {class_path: mvg.data.Augmentation, init_args: {look: 0.0}}
      transforms:
      - {class_path: torchio.RandomMotion, init_args: {degrees: 5, translation: [0, 3], include: [image]}}
      - class_path: torchio.OneOf
        init_args: {transforms: [{class_path: torchio.RandomBiasField}, {class_path: torchio.RandomSpike}], p: 0.5}
"""
TINY = """
trainer: {max_steps: 1, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}
model:
  network: {class_path: mvg.models.CanvasViT, init_args: {image_size: [32, 32], width: 16, depth: 1, heads: 1}}
data:
  sources: {anatomy: {class_path: mvg.data.SyntheticAnatomy, init_args: {image_size: [32, 32]}}}
  tasks: {segmentation: {class_path: tasks.Segmentation}, denoising: {class_path: tasks.Denoising}}
  batch_size: 2
  epoch_length: 8
  val_length: 2
  test_length: 2
"""
FIT = ["fit", "--config", "tiny.yaml"]


def subject(shape, seed=0):
    """An ellipsoid of 1 off the centre, which the label states; its second contrast is grey with a gradient."""
    grid = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, size) for size in shape), indexing="ij"))
    label = ((grid - 0.2).abs() / torch.tensor([0.6, 0.35, 0.5][: len(shape)]).view(-1, *(1,) * len(shape))).norm(dim=0)
    label = (label < 1).long()
    texture = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    other = 0.2 + 0.4 * label + 0.2 * texture
    return Subject({"image": label[None].float(), "other": other[None]}, {"labels": label}, Item("a", "a", frozenset()))


def applied(transforms, subjects, is_label=True, seed=0, **options):
    return TorchIOAugmentation(list(transforms), **options)(subjects, np.random.default_rng(seed), is_label)


def dice(first, second):
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("transform", SPATIAL, ids=lambda transform: transform.name)
def test_images_and_labels_move_together(transform, shape):
    before = subject(shape)
    (after,) = applied([transform], [before])
    assert after.shape == shape
    assert dice(after.images["image"][0] > 0.5, after.labels["labels"] == 1) > 0.95
    assert dice(before.labels["labels"] == 1, after.labels["labels"] == 1) < 0.97
    assert set(after.labels["labels"].unique().tolist()) == {0, 1}


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("transform", INTENSITY, ids=lambda transform: transform.name)
def test_artefacts_change_images_alone_and_keep_their_range(transform, shape):
    before = subject(shape)
    first, second = applied([transform], [before, before])
    for role, image in first.images.items():
        assert image.shape == before.images[role].shape
        assert image.dtype == torch.float32
        assert image.min() >= 0
        assert image.max() <= 1
    assert not torch.allclose(first.images["other"], before.images["other"], atol=0.01)
    assert not torch.equal(first.images["other"], second.images["other"])
    assert torch.equal(first.labels["labels"], before.labels["labels"])


def test_slices_do_not_leave_their_plane():
    (after,) = applied([torchio.RandomAffine(scales=0, degrees=0, translation=(0, 0, 0, 0, 4, 8))], [subject((16, 16))])
    assert torch.allclose(after.images["other"], subject((16, 16)).images["other"], atol=0.01)


@pytest.mark.parametrize("shape", SIZES)
def test_motion_blurs_what_moves_and_leaves_it_where_the_label_is(shape):
    before = subject(shape)
    motion = torchio.RandomMotion(degrees=(10, 20), translation=(2, 4), num_transforms=3)
    for seed in range(4):
        (after,) = applied([motion], [before], seed=seed)
        assert dice(after.images["image"][0] > 0.5, before.labels["labels"] == 1) > 0.9
        ghost = after.images["image"][0][before.labels["labels"] == 0]
        assert (ghost.max() > 0.1) & (ghost.std() > 0.01)


@pytest.mark.parametrize("transform", INTENSITY, ids=lambda transform: transform.name)
def test_where_an_image_is_asked_for_targets_stay_clean_or_change_by_one_draw(transform):
    before = subject((24, 24))
    before = Subject({"image": before.images["other"], "target": before.images["other"]}, {}, before.item)
    assert applied([transform], [before], False) == [before]
    first, second = applied([transform], [before, before], False, change_targets=True)
    assert not torch.equal(first.images["image"], before.images["image"])
    assert torch.equal(first.images["image"], first.images["target"])
    assert torch.equal(first.images["target"], second.images["target"])


@pytest.mark.parametrize(("options", "together"), [({}, False), ({"shared": True}, True)])
def test_flips_are_drawn_once_an_episode_and_others_where_asked(options, together):
    subjects = [subject((16, 16))] * 6
    for seed in range(4):
        flipped = applied([torchio.RandomFlip(axes=(0, 1))], subjects, seed=seed)
        assert all(torch.equal(each.labels["labels"], flipped[0].labels["labels"]) for each in flipped)
    turned = applied([torchio.RandomAffine(degrees=40)], subjects, **options)
    assert (len({each.labels["labels"].numpy().tobytes() for each in turned}) == 1) == together


def test_the_given_tensors_and_the_global_generators_stay_as_they_were():
    before, images = subject((16, 16)), [*SPATIAL, *INTENSITY, torchio.RandomNoise(copy=False)]
    copies = {role: image.clone() for role, image in before.images.items()}
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    applied(images, [before])
    assert all(torch.equal(before.images[role], copy) for role, copy in copies.items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), str(np.random.get_state())) == states[1:]


def test_another_augmentation_comes_first():
    before, noise = [subject((16, 16)), subject((16, 16), 1)], torchio.RandomNoise()
    changed = applied([noise], before, first=Augmentation(place=1.0, look=1.0))
    rng = np.random.default_rng(0)
    by_hand = TorchIOAugmentation([noise])(Augmentation(place=1.0, look=1.0)(before, rng, True), rng, True)
    for one, other in zip(changed, by_hand, strict=True):
        assert torch.equal(one.images["other"], other.images["other"])
        assert torch.equal(one.labels["labels"], other.labels["labels"])


def test_include_names_the_roles_that_an_artefact_is_for():
    before = subject((16, 16))
    (after,) = applied([torchio.RandomNoise(include=["image", "absent"])], [before])
    assert torch.equal(after.images["other"], before.images["other"])
    assert not torch.equal(after.images["image"], before.images["image"])


def test_an_episode_depends_on_seed_epoch_and_index_alone_in_any_process():
    change = TorchIOAugmentation([SPATIAL[0], *INTENSITY[:4]])
    first, second = (dataset(augmentation=change) for _ in range(2))
    backwards = [second[index] for index in reversed(range(8))][::-1]
    assert all(same(first[index], backwards[index]) for index in range(8))
    assert not same(first[0], dataset()[0])
    data = [module(augmentation=change, workers=workers, epoch_length=8) for workers in (0, 2)]
    for each in data:
        each.setup("fit")
    for here, there in zip(*(each.train_dataloader() for each in data), strict=True):
        assert same(here, there)


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (torchio.ZNormalization(), "new units"),
        (torchio.RandomLabelsToImage(label_key="labels"), "new units"),
        (torchio.OneHot(), "neither"),
        (torchio.RandomAffine(label_interpolation="linear"), "nearest pixel"),
        (torchio.Compose([torchio.RandomNoise(), torchio.RandomFlip()]), "not both"),
        (torchio.Compose([]), "not both or none"),
    ],
)
def test_what_would_break_subjects_is_refused(transform, words):
    with pytest.raises(ValueError, match=words):
        TorchIOAugmentation([transform])


def test_a_change_of_size_is_refused():
    with pytest.raises(ValueError, match="changes the size of images from"):
        applied([torchio.Crop((2, 2, 0))], [subject((16, 16))])


def test_a_configuration_trains_with_transforms(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    Path("artefacts.yaml").write_text(YAML)
    main([*FIT, "--config", "artefacts.yaml", "--name", "one"])
    stored = yaml.safe_load(Path("runs/one/config.yaml").read_text())["data"]["augmentation"]["init_args"]
    assert [each["class_path"] for each in stored["transforms"]] == ["torchio.RandomMotion", "torchio.OneOf"]
    assert stored["transforms"][0]["init_args"]["include"] == ["image"]
    main(["fit", "--config", "runs/one/config.yaml", "--name", "two"])


@pytest.mark.parametrize(
    "path",
    [
        "torchio.HistogramStandardization",
        "torchio.transforms.preprocessing.intensity.histogram_standardization.HistogramStandardization",
        "torchio.Lambda",
        "torchio.datasets.Colin27",
    ],
)
def test_classes_that_read_files_or_run_functions_are_not_named_unasked(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    change = {"class_path": "mvg.data.TorchIOAugmentation", "init_args": {"transforms": [{"class_path": path}]}}
    with pytest.raises(SystemExit):
        main([*FIT, f"--data.augmentation={yaml.safe_dump(change, default_flow_style=True)}"])
    assert "--allow-class-path torchio" in capsys.readouterr().err
