"""DICOM series of any arrangement of folders, written as NIfTI under pseudonyms."""

from __future__ import annotations

from pathlib import Path

from mvg.data.dicom import Series, encode_series, find_series
from mvg.data.importers.dataset import Choice, Dataset
from mvg.data.location import Location
from mvg.data.manifest import Row
from mvg.files import write_atomically


def read_dicom(root: Path, choice: Choice) -> Dataset:
    """Reads every series below a folder; each is a case, and patients are told apart by pseudonyms.

    The series are written as NIfTI, since names of DICOM files and folders often are those of patients: the manifest
    names the copies only.

    Args:
        root: The folder.
        choice: `work` is where the copies go.

    Raises:
        ValueError: If there is no series, or a slice is damaged, double or missing; the message names all such files.
    """
    found = find_series(root)
    if not found:
        raise ValueError(f"{root}: no DICOM series is in this folder; is this the right layout and folder?")
    if choice.work is None:
        raise ValueError("DICOM series are copied as NIfTI; say where with `work`")
    rows = []
    for series in found:
        case = f"{series.patient}_{series.name}"
        path = choice.work / f"{case}.nii.gz"
        _copy(series, path)
        rows.append(Row(case, series.patient, "", "image", Location(path), series.modality))
    patients = len({series.patient for series in found})
    remark = f"{len(found)} series of {patients} patients were written to {choice.work}, without names of patients"
    return Dataset(rows, remarks=[remark])


def _copy(series: Series, path: Path) -> None:
    content = encode_series(series)
    write_atomically(path, lambda file: file.write(content))
