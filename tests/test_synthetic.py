from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.episode_sheet import main as draw_sheet
from mvg.configuration import from_config, to_config
from mvg.data.fields import blur, smooth_noise
from mvg.data.recipes import RECIPES
from mvg.data.source import SPLITS, Index
from mvg.data.subject import Subject
from mvg.data.synthetic import MODALITIES, SyntheticAnatomy, prototype

SIZES = [(64, 64), (40, 56), (24, 24, 24)]


def classes(source: SyntheticAnatomy, split: str, cohort: int) -> list[int]:
    keys = source.items(split, cohort)[0].keys
    return sorted(int(key.removeprefix("labels=")) for key in keys if key.startswith("labels="))


def same(one: Subject, two: Subject) -> bool:
    images = all(torch.equal(one.images[role], two.images[role]) for role in one.images)
    return images and torch.equal(one.labels["labels"], two.labels["labels"])


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_reading_is_a_pure_function_of_the_item(size: tuple[int, ...]) -> None:
    source, other = SyntheticAnatomy(size, seed=7), SyntheticAnatomy(size, seed=7)
    item = source.items("train", 5)[2]
    state = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = source.read(item)
    prototype.cache_clear()
    for cohort in range(2):
        other.read(other.items("val", cohort)[0])
    assert same(first, other.read(item))
    assert np.array_equal(np.random.get_state()[1], state[0])
    assert torch.equal(torch.get_rng_state(), state[1])


@pytest.mark.parametrize("name", [*RECIPES])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_region_gives_sound_tensors(name: str, size: tuple[int, ...]) -> None:
    if len(size) == 3 and not RECIPES[name].volume:
        pytest.skip("a flat picture by nature")
    source = SyntheticAnatomy(size, recipes={name: 1})
    for cohort in range(3):
        item = source.items("train", cohort)[cohort]
        subject = source.read(item)
        assert {"image", "labels", *MODALITIES} <= item.keys
        assert set(subject.images) == {"image", *MODALITIES}
        assert set(subject.labels["labels"].unique().tolist()) <= {0, *classes(source, "train", cohort)}
        assert subject.labels["labels"].dtype == torch.int64
        assert subject.labels["labels"].shape == subject.shape == size
        for image in subject.images.values():
            assert image.dtype == torch.float32
            assert torch.isfinite(image).all()
            assert 0 <= image.min() <= image.max() <= 1
            assert image.std() > 0.01


@pytest.mark.parametrize("size", [(64, 64), (32, 32, 32)], ids=str)
def test_promised_classes_occur_in_most_subjects(size: tuple[int, ...]) -> None:
    source = SyntheticAnatomy(size)
    present = [
        bool((source.read(item).labels["labels"] == number).any())
        for cohort in range(30 if len(size) == 2 else 10)
        for item in source.items("train", cohort)[:2]
        for number in classes(source, "train", cohort)
    ]
    assert np.mean(present) > 0.97


def test_number_of_classes_is_as_asked() -> None:
    source = SyntheticAnatomy(classes=(2, 4), recipes={"abdomen": 1, "head": 1})
    counts = {len(classes(source, "train", cohort)) for cohort in range(30)}
    assert counts == {2, 3, 4}
    assert set(source.class_names["labels"]) == {1, 2, 3, 4}


def test_small_lesions_are_small_and_several() -> None:
    source = SyntheticAnatomy(lesions=1.0)
    pixels = []
    for cohort in range(40):
        names = prototype(source.plan, 0, cohort).names
        assert "lesion" in names
        labels = source.read(source.items("train", cohort)[0]).labels["labels"]
        pixels.append(int((labels == names.index("lesion") + 1).sum()))
    assert 10 <= np.median(pixels) <= 60
    assert all("lesion" not in prototype(SyntheticAnatomy(lesions=0.0).plan, 0, cohort).names for cohort in range(10))


def test_subjects_of_a_cohort_differ_but_look_alike() -> None:
    source = SyntheticAnatomy()
    one, two = [], []
    for cohort in range(40):
        first, second = (source.read(item) for item in source.items("train", cohort)[:2])
        assert not torch.equal(first.labels["labels"], second.labels["labels"])
        for number in classes(source, "train", cohort):
            masks = [subject.labels["labels"] == number for subject in (first, second)]
            if min(mask.sum() for mask in masks) >= 10:
                one.append(float(first.images["image"][0][masks[0]].mean()))
                two.append(float(second.images["image"][0][masks[1]].mean()))
    within = np.corrcoef(one, two)[0, 1]
    across = np.corrcoef(one, np.roll(two, len(two) // 2))[0, 1]
    assert within > 0.85 > 0.4 > across


def test_one_modality_predicts_another_of_a_new_patient() -> None:
    source = SyntheticAnatomy(recipes={"head": 1, "abdomen": 1})
    better = []
    for cohort in range(12):
        known, new = (source.read(item) for item in source.items("train", cohort)[:2])
        edges = np.linspace(0, 1, 17)
        bins = [np.digitize(subject.images["modality_a"].numpy(), edges) for subject in (known, new)]
        target, truth = known.images["modality_b"].numpy(), new.images["modality_b"].numpy()
        curve = np.array([target[bins[0] == k].mean() if (bins[0] == k).any() else target.mean() for k in range(18)])
        better.append(np.abs(curve[bins[1]] - truth).mean() < 0.75 * np.abs(target.mean() - truth).mean())
    assert np.mean(better) > 0.8


def test_splits_never_share_an_anatomy() -> None:
    source = SyntheticAnatomy(anatomies=8, val_anatomies=8, test_anatomies=8)
    groups = [item.group for split in SPLITS for cohort in range(8) for item in source.items(split, cohort)]
    assert len(set(groups)) == len(groups) == 3 * 8 * 12
    images = {source.read(source.items(s, c)[0]).images["image"].numpy().tobytes() for s in SPLITS for c in range(8)}
    assert len(images) == 24


def test_seed_decides_the_anatomies() -> None:
    one, two = (SyntheticAnatomy(seed=seed) for seed in (0, 1))
    assert not same(one.read(one.items("train")[0]), two.read(two.items("train")[0]))


def test_more_variation_moves_the_structures_further() -> None:
    def overlap(variation: float) -> float:
        source = SyntheticAnatomy(variation=variation, lesions=0.0, recipes={"pelvis": 1, "abdomen": 1})
        found = []
        for cohort in range(6):
            one, two = (source.read(item).labels["labels"] > 0 for item in source.items("train", cohort)[:2])
            found.append(float((one & two).sum() / (one | two).sum()))
        return float(np.mean(found))

    assert overlap(0.0) == 1.0
    assert overlap(0.0) > overlap(0.5) > overlap(2.0)


def test_left_and_right_are_two_classes_in_some_anatomies() -> None:
    source = SyntheticAnatomy(recipes={"pelvis": 1}, classes=(8, 12))
    names = [prototype(source.plan, 0, cohort).names for cohort in range(24)]
    repeated = [len(set(found)) < len(found) for found in names]
    assert 0 < sum(repeated) < len(repeated)


def test_source_can_be_stored_pickled_and_indexed() -> None:
    source = SyntheticAnatomy(image_size=[32, 32], seed=3, recipes={"heart": 2, "free": 1})
    item = source.items("val", 1)[0]
    stored: Mapping[str, Any] = to_config(source)
    for copy in (pickle.loads(pickle.dumps(source)), from_config(stored)):
        assert same(copy.read(item), source.read(item))
    assert len(Index(source.items("val", 1)).find(("image", "labels=1", "modality_b"))) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": (64,)}, "two or three numbers"),
        ({"image_size": (8, 64)}, "at least 16"),
        ({"classes": (5, 3)}, "low <= high"),
        ({"subjects": 0}, "`subjects` must be at least 1, got 0"),
        ({"anatomies": 0}, "`anatomies` must be at least 1, got 0"),
        ({"seed": -1}, "`seed` must not be negative, got -1"),
        ({"lesions": 1.5}, r"`lesions` must be a share in \[0, 1\], got 1.5"),
        ({"variation": -0.1}, "`variation` must not be negative"),
        ({"recipes": {"brain": 1}}, "unknown body regions brain; there are head"),
        ({"recipes": {"head": -1}}, "not negative"),
        ({"recipes": {"chest": 1}, "image_size": (32, 32, 32)}, "can be drawn in 3D"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticAnatomy(**arguments)


def test_bad_items_are_refused() -> None:
    source = SyntheticAnatomy()
    with pytest.raises(ValueError, match="split must be one of train, val, test, got 'all'"):
        source.items("all")
    with pytest.raises(ValueError, match="cohorts 0 to 63, got 64"):
        source.items("val", 64)
    item = source.items("val")[0]
    with pytest.raises(ValueError, match="case 'scan' is not from this source"):
        source.read(type(item)(case="scan", group="scan", keys=item.keys))


def test_noise_has_unit_variance_and_blur_keeps_the_mean() -> None:
    rng = np.random.default_rng(0)
    noise = smooth_noise(rng, (32, 48), (6, 9), 400)
    assert np.allclose(noise.std(0), 1, atol=0.2)
    assert blur(np.full((1, 20, 30), 0.3, np.float32), (2.0, 0.1)) == pytest.approx(0.3, abs=1e-5)
    edge = blur(np.eye(33, dtype=np.float32)[None, 16:17].repeat(33, 1), (0.0, 2.0))[0, 0]
    assert np.sqrt((edge * (np.arange(33) - 16) ** 2).sum()) == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("size", [["32"], ["24", "24", "24"]], ids=str)
def test_sheet_is_written(tmp_path: Any, size: list[str]) -> None:
    draw_sheet(["--output", str(tmp_path / "sheet.png"), "--size", *size, "--rows", "3", "--columns", "2"])
    assert (tmp_path / "sheet.png").stat().st_size > 1000
