"""DICOM series: order, grid, units, what is refused, and that nothing of a patient gets out."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, generate_uid
from test_manifest import mvg_data
from test_predict_volumes import command, refused  # noqa: F401

from mvg.data.dicom import find_series, read_series
from mvg.data.manifest import read_manifest
from mvg.prediction.rasters import images_in
from mvg.prediction.scans import read_scan

CANARY = "CANARY^JOHN"
TURN = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]


def write_slice(path, pixels, position, directions, spacing=(0.8, 0.6), series="1.2.3", **tags):
    """One CT image; pixels `(rows, columns)` as stored, directions of rows and columns as vectors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = generate_uid(), ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID, data.PatientBirthDate = CANARY, "CANARY77", "19010203"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.SeriesNumber, data.Modality = "1.2", series, 4, "CT"
    data.ImagePositionPatient = [f"{value:.8g}" for value in position]
    data.ImageOrientationPatient = [f"{value:.8g}" for value in np.ravel(directions)]
    data.PixelSpacing, data.SliceThickness = list(spacing), 2.5
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = *pixels.shape, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.RescaleSlope, data.RescaleIntercept = 2, -1000
    data.PixelData = pixels.astype("<i2").tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)


def write_series(folder, shape=(6, 5, 4), turn=None, gap=2.5, leave_out=(), seed=0, **tags):
    """Slices in shuffled files; returns stored values `(rows, columns, slices)`."""
    turn = np.eye(3) if turn is None else turn
    stored = np.random.default_rng(seed).integers(0, 900, shape)
    normal = np.cross(turn[0], turn[1])
    for number in set(range(shape[2])) - set(leave_out):
        name = folder / CANARY / f"IM{(number * 7 + 3) % 11}"
        write_slice(name, stored[..., number], 10 + number * gap * normal, turn[:2], **tags)
    return stored


@pytest.mark.parametrize("turn", [np.eye(3), TURN])
def test_series_is_ordered_rescaled_and_placed_as_itk_places_it(tmp_path, turn):
    stored = write_series(tmp_path, turn=turn)
    (series,) = find_series(tmp_path)
    stack = read_series(series)
    assert np.array_equal(stack.values, stored.transpose(1, 0, 2) * 2.0 - 1000)
    itk = sitk.ReadImage([str(each.path) for each in series.slices])
    corner = [4, 5, 3]
    expected = np.array(itk.TransformIndexToPhysicalPoint(corner)) * [-1, -1, 1]
    assert np.allclose(stack.affine @ [*corner, 1], [*expected, 1], atol=1e-4)
    assert np.array_equal(sitk.GetArrayFromImage(itk).transpose(2, 1, 0), stack.values)


def test_any_slice_stands_for_its_series_alone(tmp_path):
    write_series(tmp_path / "a")
    write_series(tmp_path / "a" / "below", shape=(3, 3, 2), series="9.9")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    assert [len(series.slices) for series in find_series(tmp_path)] == [4, 2]
    scan = read_scan(find_series(tmp_path)[0].slices[2].path)
    assert (scan.shape, scan.kind) == ((5, 6, 4), np.int16)
    assert np.allclose(sorted(scan.volume.spacing), [0.6, 0.8, 2.5])


def test_segmentations_beside_a_series_are_no_scans(tmp_path):
    write_series(tmp_path)
    write_slice(
        tmp_path / "seg.dcm", np.zeros((6, 5)), np.zeros(3), np.eye(3)[:2], series="7", Modality="SEG", NumberOfFrames=4
    )
    assert [len(series.slices) for series in find_series(tmp_path)] == [4]


def test_double_slices_are_refused_by_name(tmp_path):
    write_series(tmp_path)
    first = find_series(tmp_path)[0].slices[1].path
    first.with_name("COPY").write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=rf"({first.name}|COPY): it lies where ({first.name}|COPY) does"):
        find_series(tmp_path)


def test_missing_slices_are_refused_by_name(tmp_path):
    write_series(tmp_path, shape=(4, 4, 8), leave_out=[3])
    with pytest.raises(ValueError, match=r"IM9: it lies 5 mm above IM6, but slices are 2.5 mm apart"):
        find_series(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ImagePositionPatient": [13, 10, 60]}, "askew"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, 1]}, "its direction is not that of"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.5, 1, 0]}, "right angles"),
        ({"PixelSpacing": [1, 1]}, "pixel spacing is not that of"),
        ({"NumberOfFrames": 2}, "several frames"),
    ],
)
def test_slices_that_are_no_volume_are_refused(tmp_path, change, words):
    write_slice(tmp_path / "a", np.ones((4, 4)), [0, 0, 0], np.eye(3)[:2], spacing=(2, 2))
    write_slice(tmp_path / "b", np.ones((4, 4)), [0, 0, 3], np.eye(3)[:2], **{"PixelSpacing": [2, 2], **change})
    with pytest.raises(ValueError, match=rf"/[ab]: .*{words}"):
        find_series(tmp_path)


@pytest.mark.parametrize("how", ["cut", "colour", "deflated"])
def test_pixels_that_cannot_be_trusted_are_refused(tmp_path, how):
    path, tags = tmp_path / "a.dcm", {"PhotometricInterpretation": "PALETTE COLOR"} if how == "colour" else {}
    write_slice(path, np.ones((8, 8)), [0, 0, 0], np.eye(3)[:2], **tags)
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    if how == "deflated":
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        data.save_as(path)
    with pytest.raises(ValueError, match=r"a\.dcm: ") as told:
        [read_series(series) for series in find_series(tmp_path)]
    assert "CANARY" not in str(told.value)


def everything_in(folder):
    """Every name and byte below a folder, packed files unpacked."""
    for path in folder.rglob("*"):
        yield str(path.relative_to(folder)).encode()
        if path.is_file():
            content = path.read_bytes()
            yield gzip.decompress(content) if path.suffix == ".gz" else content


def test_prepared_series_are_grouped_by_patient_and_name_nobody(tmp_path, monkeypatch, capsys, caplog):
    for number, patient in enumerate(["CANARY1", "CANARY1", "CANARY2", "CANARY3", "CANARY4"]):
        tags = {"PatientID": patient, "StudyInstanceUID": f"1.2.{number}", "series": f"1.7.{number}"}
        write_series(tmp_path / "in" / str(number), seed=number, **tags)
    with caplog.at_level("DEBUG"):
        mvg_data(
            monkeypatch, "prepare", "--layout", "dicom", "--folder", tmp_path / "in", "--output", tmp_path / "out/m.csv"
        )
    rows = read_manifest(tmp_path / "out/m.csv")
    assert sorted(sum(row.group == group for row in rows) for group in {row.group for row in rows}) == [1, 1, 1, 2]
    assert {row.modality for row in rows} == {"CT"}
    words = [*everything_in(tmp_path / "out"), capsys.readouterr().out.encode(), caplog.text.encode()]
    assert not [word for word in words if b"CANARY" in word or b"19010203" in word]
    assert len(nibabel.load(rows[0].location.path).shape) == 3


def test_command_answers_a_folder_of_series(command, caplog):  # noqa: F811
    stored = write_series(Path("series"), shape=(16, 16, 5))
    with caplog.at_level("DEBUG"):
        command("--input", "series", "--output", "out", "--window", "[-1000,800]", "--format", "nii.gz")
    (series,) = find_series(Path("series"))
    answer = nibabel.load(f"out/{series.name}.nii.gz")
    assert answer.shape == (16, 16, 5)
    assert np.allclose(answer.affine, read_series(series).affine, atol=1e-4)
    assert np.asarray(answer.dataobj).any()
    assert not [word for word in (*everything_in(Path("out")), caplog.text.encode()) if b"CANARY" in word]
    assert stored.shape == answer.shape


def test_command_refuses_a_damaged_series(refused):  # noqa: F811
    write_series(Path("series"), shape=(4, 4, 8), leave_out=[3])
    assert "IM9: it lies 5 mm above IM6" in refused("--input", "series")


def test_a_folder_of_slices_is_asked_once(tmp_path):
    write_series(tmp_path)
    assert list(images_in(tmp_path / CANARY)) == [find_series(tmp_path)[0].name]
