"""Splits and folder sources."""

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from PIL import Image
from test_readers import RAS, damage, write_nifti

from mvg.data import (
    EpisodeDataModule,
    FolderSource,
    Window,
    to_slices,
)
from mvg.data.readers import read_volume
from mvg.data.splits import assign_splits, group_of
from mvg.files import write_atomically


def folder_of_volumes(root, cases=4, shape=(10, 12, 6)):
    rng = np.random.default_rng(0)
    for number in range(cases):
        label = np.zeros(shape)
        label[3:7, 4:8, 2:5] = 1 + number % 2
        write_nifti(root / "images" / f"p{number}.nii.gz", rng.normal(100, 20, shape) + 50 * label)
        write_nifti(root / "labels" / f"p{number}.nii.gz", label, dtype=np.uint8)
    return root


def source_of(root, **options):
    defaults = {"roles": {"image": "images", "labels": "labels"}, "name": "s", "cache": str(root / "cache")}
    return FolderSource(str(root), **{**defaults, "split": {"train": 1.0}, "slices": "axial", **options})


@settings(max_examples=30, deadline=None)
@given(patients=st.integers(3, 40), seed=st.integers(0, 99))
def test_shares_never_divide_a_patient(patients, seed):
    cases = {f"c{number}": f"p{number % patients}" for number in range(3 * patients)}
    splits = assign_splits(cases, {"train": 0.6, "val": 0.2, "test": 0.2}, seed)
    assert sorted(case for members in splits.values() for case in members) == sorted(cases)
    groups = [{cases[case] for case in members} for members in splits.values()]
    assert not (groups[0] & groups[1])
    assert not (groups[0] & groups[2])
    assert not (groups[1] & groups[2])


@pytest.mark.parametrize(
    ("split", "match"),
    [
        ({"train": 0.5}, "sum to 1"),
        ({"train": 0.5, "dev": 0.5}, "dev"),
        ({"train": ["a1"], "test": ["a2"]}, "two splits"),
        ({"train": ["x*"]}, "none"),
    ],
)
def test_wrong_split_is_refused(split, match):
    with pytest.raises(ValueError, match=match):
        assign_splits({"a1": "a", "a2": "a", "b1": "b"}, split, 0)


def test_patients_are_found_in_names():
    assert group_of("s1_p12", {}, r"_(p\d+)", None) == "p12"
    assert group_of("a", {"a": "z"}, "nothing", None) == "z"
    assert group_of("f_009", {}, None, 10) != group_of("f_010", {}, None, 10)


def test_slices_hold_what_the_files_hold(tmp_path):
    source = source_of(folder_of_volumes(tmp_path), intensity={"image": Window(0, 255)})
    items = source.items("train")
    assert len(items) == 24
    assert [item.slice for item in items[:6]] == [*range(6)]
    item = items[3]
    assert "labels=1" in item.keys
    assert "labels=2" not in item.keys
    assert "labels=1" not in items[0].keys
    volume = read_volume(tmp_path / "images" / "p0.nii.gz").values
    expected = to_slices(torch.from_numpy(volume), 2)[3] / 255
    read = source.read(item)
    assert read.shape == (12, 10)
    assert read.spacing == pytest.approx((2.0, 2.0))
    assert torch.allclose(read.images["image"][0], expected.clamp(0, 1), atol=2e-5)


def test_whole_volumes_keep_three_axes(tmp_path):
    source = source_of(folder_of_volumes(tmp_path), slices=None)
    assert source.dims == 3
    assert source.read(source.items("train")[0]).shape == (10, 12, 6)


def test_second_start_reads_no_image(tmp_path, monkeypatch):
    source_of(folder_of_volumes(tmp_path)).items("train")
    monkeypatch.setattr("mvg.data.file_source.prepare", lambda *_: pytest.fail("an image was read"))
    again = source_of(tmp_path)
    assert len(again.items("train")) == 24
    assert again.read(again.items("train")[2]).shape == (12, 10)


def test_changed_file_of_equal_size_is_read_again(tmp_path):
    path = write_nifti(tmp_path / "images" / "p0.nii", np.full((10, 12, 6), 51.0))
    size = path.stat().st_size
    options = {"roles": {"image": "images"}, "intensity": {"image": Window(0, 255)}}
    for value in (51.0, 102.0):
        write_nifti(path, np.full((10, 12, 6), value))
        source = source_of(tmp_path, **options)
        image = source.read(source.items("train")[0]).images["image"]
        assert path.stat().st_size == size
        assert torch.allclose(image, torch.tensor(value / 255), atol=1e-4)


def test_changed_pixels_beside_a_header_are_read_again(tmp_path):
    (tmp_path / "images").mkdir()
    options = {"roles": {"image": "images"}, "intensity": {"image": Window(0, 255)}}
    header = tmp_path / "images" / "p0.mhd"
    for value in (51, 102):
        sitk.WriteImage(sitk.GetImageFromArray(np.full((6, 12, 10), value, dtype=np.uint8)), str(header))
        os.utime(header, ns=(0, 0))
        source = source_of(tmp_path, **options)
        image = source.read(source.items("train")[0]).images["image"]
        assert torch.allclose(image, torch.tensor(value / 255), atol=1e-4)


def test_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "index.json"
    write_atomically(path, lambda file: file.write(b"old"))
    with pytest.raises(OSError, match="full"):
        write_atomically(path, lambda file: (file.write(b"ne"), (_ for _ in ()).throw(OSError("full"))))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_roles_on_other_grids_are_aligned_in_the_common_field(tmp_path):
    block = np.zeros((20, 20, 8), dtype=np.float32)
    block[6:14, 6:14, 2:6] = 100
    for number in range(2):
        write_nifti(tmp_path / "images" / f"p{number}.nii.gz", block + 1)
        shifted = RAS.copy()
        shifted[:3, 3] = [8, 8, 6]
        write_nifti(tmp_path / "mr" / f"p{number}.nii.gz", block[4:, 4:, 2:] + 1, shifted)
        write_nifti(tmp_path / "labels" / f"p{number}.nii.gz", block > 0, dtype=np.uint8)
    source = source_of(tmp_path, roles={"image": "images", "mr": "mr", "labels": "labels"})
    read = source.read(source.items("train")[1])
    assert read.shape == (16, 16)
    assert (read.labels["labels"] == 1).sum() == 64
    assert torch.equal(read.images["image"] > 0.5, read.images["mr"] > 0.5)
    assert torch.equal(read.images["image"][0] > 0.5, read.labels["labels"] == 1)


def test_damaged_case_is_named_before_training(tmp_path):
    damage(folder_of_volumes(tmp_path) / "images" / "p2.nii.gz", "half")
    with pytest.raises(ValueError, match=r"1 of 4 cases fail.*p2\.nii\.gz"):
        source_of(tmp_path).items("train")


def test_missing_partner_is_named(tmp_path):
    (folder_of_volumes(tmp_path) / "labels" / "p3.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"'labels' \(p3\)"):
        source_of(tmp_path).items("train")
    optional = source_of(tmp_path, optional=["labels"])
    assert {"labels" in item.keys for item in optional.items("train") if item.case == "p3"} == {False}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"class_names": {"labels": {1: "a"}}}, r"classes \[2\]"),
        ({"roles": {"image": "nowhere"}}, "nowhere"),
        ({"slices": "oblique"}, "oblique"),
        ({"roles": {"labels": "labels"}}, "role with images"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        source_of(folder_of_volumes(tmp_path), **options).items("train")


def test_air_is_left_out_of_training_only(tmp_path):
    values = np.zeros((2, 10, 12, 6))
    values[..., 2:] = 200
    for number in range(2):
        write_nifti(tmp_path / "images" / f"p{number}.nii.gz", values[number])
    options = {"roles": {"image": "images"}, "intensity": {"image": Window(0, 255)}, "slices": "axial"}
    source = source_of(tmp_path, **options, split={"train": ["p0"], "test": ["p1"]})
    assert [item.slice for item in source.items("train")] == [2, 3, 4, 5]
    assert len(source.items("test")) == 6
    trimmed = source_of(tmp_path, **options, trim=True)
    assert {trimmed.read(item).images["image"].min().item() > 0.7 for item in trimmed.items("train")} == {True}


def test_eight_bit_pictures_are_kept_exactly(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (40, 20), dtype=np.uint8)
    for number, folder in [(number, folder) for number in range(2) for folder in ("images", "labels")]:
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(grey if folder == "images" else grey // 128).save(tmp_path / folder / f"c{number}.png")
    source = source_of(tmp_path)
    read = source.read(source.items("train")[0])
    assert torch.equal((read.images["image"][0] * 255).round().byte(), torch.from_numpy(grey))
    assert torch.equal(read.labels["labels"], torch.from_numpy(grey // 128).long())
    small = source_of(tmp_path, longest=20)
    assert small.read(small.items("train")[1]).shape == (20, 10)


def parse_config(name):
    parser = ArgumentParser(parser_mode="omegaconf", exit_on_error=False)
    parser.add_class_arguments(EpisodeDataModule, "data")
    path = Path(__file__).parents[1] / "configs" / "data" / f"{name}.yaml"
    return parser.instantiate(parser.parse_args([f"--data={path}", "--data.image_size=[64,64]"])).data


@pytest.mark.parametrize(("name", "count"), [("real", 6), ("unseen", 2)])
def test_shipped_configurations_name_what_exists(name, count):
    data = parse_config(name)
    assert len(data.sources) == count
    assert all(source.licence != "unknown" for source in data.sources.values())


def test_unseen_sets_are_no_training_sets():
    roots = [{source.root for source in parse_config(name).sources.values()} for name in ("real", "unseen")]
    assert not roots[0] & roots[1]


@pytest.mark.skipif("MVG_DATA" not in os.environ, reason="needs real scans below MVG_DATA")
def test_real_chests_keep_their_patients_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("MVG_CACHE", str(tmp_path))
    source = parse_config("real").sources["chest"]
    groups = [{item.group for item in source.items(split)} for split in ("train", "val", "test")]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 26
    assert {f"labels={k}" for k in (1, 2, 3)} <= source.items("test")[0].keys


def test_images_of_air_are_not_offered_in_training(tmp_path):
    dose = np.zeros((10, 12, 6))
    dose[..., 4:] = 50
    for number in range(2):
        write_nifti(tmp_path / "images" / f"p{number}.nii.gz", np.full((10, 12, 6), 100))
        write_nifti(tmp_path / "dose" / f"p{number}.nii.gz", dose)
    rules = {"image": Window(0, 200), "dose": Window(0, 80)}
    source = source_of(
        tmp_path,
        roles={"image": "images", "dose": "dose"},
        intensity=rules,
        split={"train": ["p0"], "test": ["p1"]},
    )
    assert ["dose" in item.keys for item in source.items("train")] == [False] * 4 + [True] * 2
    assert all("dose" in item.keys for item in source.items("test"))
