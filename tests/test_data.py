"""Readers, geometry, augmentation, splits and folder sources."""

import gzip
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from PIL import Image

from mvg.data import (
    Augmentation,
    EpisodeDataModule,
    FolderSource,
    FullScale,
    Item,
    Percentiles,
    Subject,
    Window,
    augmentation,
    fit,
    from_slices,
    place,
    place_crop,
    restore,
    to_slices,
)
from mvg.data.augmentation import Look, Place, change_look, change_place
from mvg.data.cache import write_atomically
from mvg.data.geometry import majority_labels, resize, resize_labels
from mvg.data.intensity import normalise
from mvg.data.readers import Volume, read_picture, read_volume, resample, verify_nifti
from mvg.data.splits import assign_splits, group_of

RAS = np.diag([2.0, 2.0, 3.0, 1.0])


def write_nifti(path, values, affine=RAS, dtype=np.float32):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(np.asarray(values, dtype=dtype), affine).to_filename(path)
    return path


def ramp(shape=(6, 7, 4)):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def subject(shape, seed=0):
    torch.manual_seed(seed)
    return Subject(
        {"image": torch.rand(1, *shape)}, {"labels": torch.randint(0, 3, shape)}, Item("a", "a", frozenset())
    )


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


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "half":
        data = data[: len(data) // 2]
    elif how == "flip":
        data[len(data) // 2] ^= 0xFF
    elif how == "empty":
        data = bytearray()
    elif how == "text":
        data = bytearray(b"no image at all" * 100)
    elif how == "bomb":
        raw = bytearray(gzip.decompress(bytes(data)))
        raw[42:48] = np.array([30000] * 3, dtype="<i2").tobytes()
        data = bytearray(gzip.compress(bytes(raw)))
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("how", ["half", "flip", "empty", "text", "bomb"])
def test_damaged_nifti_is_refused_by_name(tmp_path, how):
    path = write_nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(20, 20, 20)))
    verify_nifti(path)
    damage(path, how)
    with pytest.raises(ValueError, match=r"a\.nii\.gz"):
        read_volume(path)


def test_truncated_plain_nifti_is_refused(tmp_path):
    path = write_nifti(tmp_path / "a.nii", ramp())
    damage(path, "half")
    with pytest.raises(ValueError, match="truncated"):
        read_volume(path)


@pytest.mark.parametrize("code", ["RAS", "LPS", "PIR", "SAL", "ILA"])
def test_every_orientation_reads_as_ras(tmp_path, code):
    image = nibabel.Nifti1Image(ramp(), RAS)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(RAS), nibabel.orientations.axcodes2ornt(tuple(code))
    )
    turned = image.as_reoriented(turn)
    turned.to_filename(tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.values, ramp())
    np.testing.assert_allclose(volume.affine, RAS, atol=1e-5)


def test_slope_is_applied(tmp_path):
    image = nibabel.Nifti1Image(ramp() * 0.5, RAS)
    image.header.set_data_dtype(np.int16)
    image.to_filename(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii.gz").values, ramp() * 0.5, atol=0.01)


def test_two_geometries_in_one_header_are_refused(tmp_path):
    image = nibabel.Nifti1Image(ramp(), RAS)
    image.set_sform(np.diag([0.7, 0.7, 3, 1]), 1)
    image.set_qform(np.eye(4), 1)
    image.to_filename(tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match=r"a\.nii\.gz.*[sq]form"):
        read_volume(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(
    ("values", "affine", "match"),
    [
        (np.full((4, 4, 4), np.nan), RAS, "NaN"),
        (np.zeros((4, 4, 4, 2)), RAS, "one file per volume"),
        (np.zeros((4, 4)), RAS, "3D volume"),
        (np.zeros((4, 4, 4)), np.array([[1, 0.4, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "a.nii"),
    ],
)
def test_unusable_volume_is_refused(tmp_path, values, affine, match):
    write_nifti(tmp_path / "a.nii.gz", values, affine)
    with pytest.raises(ValueError, match=match):
        read_volume(tmp_path / "a.nii.gz")


def test_resampling_follows_the_affines():
    def field(affine, shape):
        points = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
        return Volume((points @ [1.0, 2.0, 3.0]).astype(np.float32), affine, None)

    angle = np.deg2rad(20)
    oblique = np.eye(4)
    oblique[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    moved, seen = resample(field(oblique, (30, 30, 12)), field(RAS, (9, 9, 4)))
    assert 10 < seen.sum() < seen.size
    np.testing.assert_allclose(moved.values[seen], field(RAS, (9, 9, 4)).values[seen], atol=0.6)


@pytest.mark.parametrize(("mode", "full_scale"), [("L", 255), ("I;16", 65535), ("RGB", 255), ("P", 255)])
def test_pictures_become_grey(tmp_path, mode, full_scale):
    grey = np.linspace(0, full_scale, 20).reshape(4, 5).astype(np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(np.stack([grey] * 3, -1) if mode == "RGB" else grey)
    (image.convert("P") if mode == "P" else image).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.full_scale == full_scale
    np.testing.assert_array_equal(picture.values, grey)


def test_damaged_or_coloured_label_picture_is_refused(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png.*class indices"):
        read_picture(tmp_path / "a.png", labels=True)
    damage(tmp_path / "a.png", "half")
    with pytest.raises(ValueError, match=r"a\.png.*damaged"):
        read_picture(tmp_path / "a.png")


def test_16_bit_colours_are_refused_in_training_too(tmp_path):
    colours = sitk.GetImageFromArray(np.full((5, 7, 3), 40000, np.uint16), isVector=True)
    sitk.WriteImage(colours, str(tmp_path / "a.png"))
    with pytest.raises(ValueError, match=r"a\.png: 16-bit colours"):
        read_picture(tmp_path / "a.png")


def test_pictures_of_several_pages_are_refused(tmp_path):
    pages = [Image.new("L", (4, 5)) for _ in range(2)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=r"a\.tif: one picture is needed, got 2 pages"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("rule", [Window(10, 90), Percentiles(), FullScale(100.0)])
def test_intensities_stay_in_the_unit_interval_and_keep_their_order(rule):
    values = np.random.default_rng(0).normal(50, 40, 500).astype(np.float32)
    scaled = normalise(values, rule.limits(values, None))
    assert scaled.min() >= 0
    assert scaled.max() <= 1
    assert (np.diff(scaled[np.argsort(values)]) >= 0).all()


def test_percentiles_do_not_depend_on_units_and_accept_constants():
    values = np.random.default_rng(0).gamma(2, 1, 1000).astype(np.float32)
    low, high = Percentiles().limits(values, None)
    np.testing.assert_allclose(Percentiles().limits(values * 1e4, None), (low * 1e4, high * 1e4), rtol=1e-4)
    assert Percentiles().limits(np.zeros(10, dtype=np.float32), None) == (0.0, 1.0)


sizes = st.tuples(st.integers(5, 40), st.integers(5, 40))


@settings(max_examples=30, deadline=None)
@given(shape=sizes, target=sizes, aspect=st.sampled_from(["stretch", "pad", "crop"]))
def test_restore_undoes_fit(shape, target, aspect):
    placement = place(shape, target, aspect)
    smooth = torch.linspace(0.2, 0.8, shape[0])[:, None] + 0.1 * torch.linspace(-1, 1, shape[1])
    fitted = fit(Subject({"image": smooth[None]}, {}, Item("a", "a", frozenset())), placement)
    assert fitted.shape == target
    back = restore(fitted.images["image"], placement)[0]
    window = tuple(slice(low, low + box) for low, box in zip(placement.low, placement.box, strict=True))
    assert back.shape == shape
    coarsest = max(1 / inner for inner in placement.inner)
    assert (back - smooth)[window].abs().max() < coarsest + 0.02


def test_fit_of_equal_size_is_the_identity():
    same = fit(subject((8, 9)), place((8, 9), (8, 9)))
    assert torch.equal(same.images["image"], subject((8, 9)).images["image"])


def test_resize_matches_the_library_in_2d_and_separates_in_3d():
    image = torch.rand(2, 12, 10, 8)
    expected = torch.stack([resize(image[:, k], (5, 6)) for k in range(12)], 1)
    assert torch.allclose(resize(image, (12, 5, 6)), expected, atol=1e-6)
    assert torch.allclose(resize(torch.full((1, 7, 7, 7), 0.3), (3, 9, 5)), torch.full((1, 3, 9, 5), 0.3))


def test_labels_are_never_mixed():
    label = torch.zeros(20, 20, dtype=torch.int64)
    label[:, 10:] = 7
    for resized in (resize_labels(label, (9, 9)), majority_labels(label, (9, 9))):
        assert set(resized.unique().tolist()) == {0, 7}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), row=st.integers(0, 19), column=st.integers(0, 29))
def test_random_box_lies_inside_and_holds_the_anchor(seed, row, column):
    anchor = torch.zeros(20, 30, dtype=torch.bool)
    anchor[row, column] = True
    box = place_crop((20, 30), (16, 16), np.random.default_rng(seed), anchor, (0.3, 0.9))
    for low, size, whole, pixel in zip(box.low, box.box, (20, 30), (row, column), strict=True):
        assert 0 <= low <= pixel < low + size <= whole


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_can_be_put_back(axis):
    volume = torch.rand(4, 5, 6)
    assert torch.equal(from_slices(to_slices(volume, axis), axis), volume)


def test_slices_are_upright():
    head, front, right = torch.zeros(3, 3, 4, 5)
    head[:, :, -1] = front[:, -1, :] = right[-1, :, :] = 1
    assert to_slices(head, 1)[:, 0].all()
    assert to_slices(head, 0)[:, 0].all()
    assert to_slices(front, 2)[:, 0].all()
    assert to_slices(front, 0)[:, :, 0].all()
    assert to_slices(right, 2)[:, :, 0].all()
    assert to_slices(right, 1)[:, :, 0].all()


@pytest.mark.parametrize("shape", [(24, 20), (12, 10, 8)])
def test_change_of_place_moves_image_and_label_alike(shape):
    label = torch.zeros(shape, dtype=torch.int64)
    label[tuple(slice(n // 4, n // 2) for n in shape)] = 1
    given_subject = Subject({"image": label[None].float()}, {"labels": label}, Item("a", "a", frozenset()))
    place_ = Augmentation(place=1.0).draw_place(np.random.default_rng(1), len(shape))
    moved = change_place(given_subject, Place((0,), place_.matrix, place_.bend))
    agreement = ((moved.images["image"][0] > 0.5) == (moved.labels["labels"] == 1)).float().mean()
    assert agreement > 0.97
    assert not torch.equal(moved.labels["labels"], label)


def test_rotation_by_a_right_angle_equals_rot90():
    image = torch.rand(1, 9, 9)
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    grid = augmentation.sampling_grid((9, 9), turn, None)
    turned = augmentation.sample(image, grid, "bilinear")
    assert min((turned - torch.rot90(image, k, (1, 2))).abs().max() for k in (1, 3)) < 1e-5


def test_rotation_keeps_angles_on_oblong_images():
    grid = augmentation.sampling_grid((10, 20), torch.tensor([[0.0, -1.0], [1.0, 0.0]]), None)
    pixels = (grid[0] + 1) * torch.tensor([20.0, 10.0]) / 2
    assert torch.allclose((pixels[1, 0] - pixels[0, 0]).norm(), torch.tensor(1.0), atol=1e-5)
    assert torch.allclose((pixels[0, 1] - pixels[0, 0]).norm(), torch.tensor(1.0), atol=1e-5)


def test_augmentation_depends_on_its_generator_alone():
    results = [
        Augmentation()([subject((16, 16)), subject((16, 16), 1)], np.random.default_rng(5), True) for _ in range(2)
    ]
    for first, second in zip(*results, strict=True):
        assert torch.equal(first.images["image"], second.images["image"])
        assert first.images["image"].min() >= 0
        assert first.images["image"].max() <= 1


def test_image_tasks_share_one_look_without_noise():
    changed = Augmentation(place=0.0, look=1.0, flip=0.0, noise=0.5)(
        [subject((16, 16)), subject((16, 16))], np.random.default_rng(0), False
    )
    assert torch.equal(changed[0].images["image"], changed[1].images["image"])
    order = subject((16, 16)).images["image"].flatten().argsort()
    assert (changed[0].images["image"].flatten()[order].diff() >= 0).all()


def test_neutral_look_changes_nothing_and_blur_keeps_the_mean():
    neutral = change_look(subject((8, 8)), {"image": Look()})
    assert torch.equal(neutral.images["image"], subject((8, 8)).images["image"])
    assert torch.allclose(augmentation.blur(torch.full((1, 8, 8), 0.4), 1.5), torch.full((1, 8, 8), 0.4))


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
    monkeypatch.setattr("mvg.data.folders.prepare", lambda *_: pytest.fail("an image was read"))
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
