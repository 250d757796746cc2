"""Readers of volumes and pictures, and the rules that bring them to [0, 1]."""

import gzip

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from mvg.data import (
    FullScale,
    Percentiles,
    Window,
)
from mvg.data.intensity import normalise
from mvg.data.itk import read_itk
from mvg.data.readers import Volume, read_picture, read_volume, resample, verify_nifti

RAS = np.diag([2.0, 2.0, 3.0, 1.0])


def write_nifti(path, values, affine=RAS, dtype=np.float32):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(np.asarray(values, dtype=dtype), affine).to_filename(path)
    return path


def ramp(shape=(6, 7, 4)):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


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


@pytest.mark.parametrize("first", [9, 10, 13, 32])
def test_pixels_that_look_like_the_end_of_a_header_line_are_pixels(tmp_path, first):
    values = np.full((3, 4, 5), first, np.uint8)
    values[0, 0, 1] = 10
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "a.mha"))
    assert set(np.unique(read_itk(tmp_path / "a.mha").values)) == {first, 10}


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
