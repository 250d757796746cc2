# The header classes of nibabel, and pydicom, carry few types.
# mypy: disable-error-code="no-untyped-call"
"""DICOM series: slices of one scan, found in folders, put in order and read; of patients only pseudonyms are kept.

Only the tags that are named here are ever looked at. Messages of pydicom are not repeated, since they may quote values.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import DeflatedExplicitVRLittleEndian

from mvg.data.cache import stamp
from mvg.data.readers import LARGEST, SIZE_LIMIT, FloatArray

_TAGS = [
    "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SeriesNumber", "Modality", "Rows",
    "Columns", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
]  # fmt: skip
_PIXELS = [
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "NumberOfFrames", "PixelData",
]  # fmt: skip
A = TypeVar("A")
B = TypeVar("B")

_SHOWN = 10
_RESCALE = (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_ANGLE = 1e-3
"""Largest error of a direction cosine."""
_GAP = 0.05
"""Largest error of the distance between two slices, as a share of it."""


@dataclass(frozen=True)
class Slice:
    """What the header of one file says; vectors in LPS and mm.

    Attributes:
        path: The file.
        patient: Identifier of the patient; empty where there is none.
        study: UID of the study.
        series: UID of the series.
        instance: UID of the image.
        number: Number of the series.
        modality: "CT", "MR", ...
        shape: Rows and columns.
        position: Centre of the first pixel.
        row: Direction along which columns are counted.
        column: Direction along which rows are counted.
        spacing: Distance of rows, and of columns.
        thickness: Thickness of the slice; 0 where unknown.
    """

    path: Path
    patient: str
    study: str
    series: str
    instance: str
    number: str
    modality: str
    shape: tuple[int, int]
    position: NDArray[np.float64]
    row: NDArray[np.float64]
    column: NDArray[np.float64]
    spacing: tuple[float, float]
    thickness: float

    @property
    def height(self) -> float:
        """Distance from the origin along the normal of the slice."""
        return float(self.position @ np.cross(self.row, self.column))


@dataclass(frozen=True)
class Series:
    """The slices of one scan, from the lowest to the highest along their normal.

    Attributes:
        slices: The slices.
        patient: Pseudonym of the patient: a hash of the identifier, keyed by the UID of a study, so that nobody can
            try all identifiers.
    """

    slices: tuple[Slice, ...]
    patient: str

    @property
    def modality(self) -> str:
        """Kind of image."""
        return self.slices[0].modality

    @property
    def name(self) -> str:
        """Name that says nothing of the patient: modality, number of the series, hash of its UID."""
        number = self.slices[0].number
        return "-".join(part for part in (self.modality, number, _hash(self.slices[0].series)[:10]) if part)


@dataclass(frozen=True)
class Stack:
    """The voxels of a series.

    Attributes:
        values: `(columns, rows, slices)`, rescaled.
        affine: `(4, 4)`, voxel indices to millimetres, RAS+.
        whole: Whether the values are whole numbers of at most 16 bits with sign.
    """

    values: FloatArray
    affine: NDArray[np.float64]
    whole: bool


def _hash(text: str, key: str = "") -> str:
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


def is_dicom(path: Path) -> bool:
    """Tells whether a file is a DICOM file, by the four letters after its preamble."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def find_series(place: Path) -> list[Series]:
    """Finds the series in a folder and all folders below it, or the series that a file belongs to.

    Files of other kinds, DICOM files without pixels (reports, structures, directories), and segmentations are left out.

    Args:
        place: The folder or the file.

    Raises:
        ValueError: If a DICOM file cannot be read, or a series contradicts itself; the message names the files.
    """
    folder = place if place.is_dir() else place.parent
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name[0] != "." and is_dicom(path))
    return list(_series_in(folder, None if place.is_dir() else place, tuple(paths), stamp(paths)))


@lru_cache(maxsize=64)
def _series_in(folder: Path, wanted: Path | None, paths: tuple[Path, ...], _: str) -> tuple[Series, ...]:
    """Groups files into series; `wanted` keeps the series of one file alone."""
    slices, faults = _without_faults(read_slice, paths)
    known = [each for each in slices if each is not None]
    members: dict[str, list[Slice]] = {}
    studies: dict[str, str] = {}
    for each in known:
        members.setdefault(each.series, []).append(each)
        studies[each.patient] = min(studies.get(each.patient, each.study), each.study)
    if wanted is not None:
        members = {uid: found for uid, found in members.items() if wanted in [each.path for each in found]}
        faults = [fault for fault in faults if fault.startswith(str(wanted))]
    ordered, others = _without_faults(order, [found for _, found in sorted(members.items())])
    if faults := faults + others:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise ValueError("; ".join(faults[:_SHOWN]) + more)
    return tuple(Series(tuple(found), _pseudonym(found[0], studies)) for found in ordered)


def _without_faults(work: Callable[[A], B], values: Iterable[A]) -> tuple[list[B], list[str]]:
    """Does a work on each value; returns what came of it, and a sentence for each that failed."""
    done, faults = [], []
    for value in values:
        try:
            done.append(work(value))
        except ValueError as error:
            faults.append(str(error))
    return done, faults


def _pseudonym(member: Slice, studies: dict[str, str]) -> str:
    key = studies[member.patient] if member.patient else member.study
    return f"patient-{_hash(member.patient, key)[:10]}"


def _read(path: Path, tags: Sequence[str]) -> pydicom.FileDataset:
    """Reads some tags. Raises ValueError that quotes no value."""
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            if pydicom.filereader.read_file_meta_info(path).TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
                raise ValueError(f"{path}: the file is deflated as a whole, which is not read; export it uncompressed")
            return pydicom.dcmread(path, specific_tags=list(tags))
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: the file is damaged; export it again") from None
    except FileNotFoundError:
        raise ValueError(f"{path}: the file does not exist") from None
    except Exception as error:  # whatever a damaged file makes pydicom stumble over
        raise ValueError(f"{path}: the file is damaged ({type(error).__name__}); export it again") from None


def read_slice(path: Path) -> Slice | None:
    """Reads the header of a file; None if it holds no pixels, or a segmentation, which is no scan.

    Raises:
        ValueError: If it is damaged, holds several frames, or does not say where its pixels lie.
    """
    header = _read(path, _TAGS)
    try:
        if "Rows" not in header or "Columns" not in header or header.get("Modality") == "SEG":
            return None
        if int(header.get("NumberOfFrames") or 1) != 1:
            raise ValueError(f"{path}: files of several frames are not read; export the series as single slices")
        orientation, position, spacing = (
            np.array([float(value) for value in header.get(name) or ()])
            for name in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")
        )
        if (len(orientation), len(position), len(spacing)) != (6, 3, 2) or not min(spacing) > 0:
            raise ValueError(f"{path}: position, orientation or pixel spacing is missing; export it with its geometry")
        row, column = orientation[:3], orientation[3:]
        angles = np.abs([row @ row - 1, column @ column - 1, row @ column])
        if not np.isfinite([*position, *spacing]).all() or not angles.max() < _ANGLE:
            raise ValueError(f"{path}: its directions are not at right angles or not finite; export it again")
        texts = [str(header.get(name) or "") for name in _TAGS[:6]]
        if not texts[2]:
            raise ValueError(f"{path}: the series is not named (SeriesInstanceUID); export it again")
        shape, thickness = (int(header.Rows), int(header.Columns)), float(header.get("SliceThickness") or 0)
    except Exception as error:  # values are parsed when they are looked at, and may be anything
        raise (
            error if str(error).startswith(str(path)) else ValueError(f"{path}: the header is damaged; export it again")
        ) from None
    number = texts[4] if texts[4].isdigit() else ""
    modality = texts[5] if texts[5].isalnum() and len(texts[5]) <= 16 else ""
    named = texts[0], texts[1], texts[2], texts[3], number, modality
    return Slice(path, *named, shape, position, row, column, (float(spacing[0]), float(spacing[1])), thickness)


def order(slices: Iterable[Slice]) -> list[Slice]:
    """Puts the slices of a series in order and checks that they are one volume.

    Raises:
        ValueError: If two lie at one place, one is missing, or they differ in size, spacing or direction; or lie askew.
    """
    listed = sorted(slices, key=lambda each: each.height)
    first = listed[0]
    for each in listed:
        if each.shape != first.shape or np.abs(np.subtract(each.spacing, first.spacing)).max() > _ANGLE:
            raise ValueError(f"{each.path}: its size or pixel spacing is not that of {first.path.name}; separate them")
        if max(np.abs(each.row - first.row).max(), np.abs(each.column - first.column).max()) > _ANGLE:
            raise ValueError(f"{each.path}: its direction is not that of {first.path.name}; separate the series")
    gaps = np.diff([each.height for each in listed])
    usual = float(np.median(gaps)) if len(gaps) else 0.0
    for gap, (below, above) in zip(gaps, pairwise(listed), strict=True):
        if not gap > max(_GAP * usual, 1e-4):
            raise ValueError(f"{above.path}: it lies where {below.path.name} does; keep one of them")
        if abs(gap - usual) > _GAP * usual:
            raise ValueError(
                f"{above.path}: it lies {gap:.4g} mm above {below.path.name}, but slices are {usual:.4g} mm apart; "
                "restore what is missing between them"
            )
    if len(listed) > 1:
        step = listed[-1].position - first.position
        askew = step - (step @ np.cross(first.row, first.column)) * np.cross(first.row, first.column)
        if np.linalg.norm(askew) > _ANGLE * np.linalg.norm(step):
            raise ValueError(f"{first.path}: the slices of its series lie askew (a tilted gantry); resample the series")
    return listed


def read_series(series: Series, largest: int = LARGEST) -> Stack:
    """Reads the voxels of a series, rescaled to their units.

    Args:
        series: What `find_series` found.
        largest: Bytes of float32 voxels beyond which it is refused.

    Raises:
        ValueError: If a file is damaged or truncated, or holds something else than grey values.
    """
    first, count = series.slices[0], len(series.slices)
    needed = 4 * first.shape[0] * first.shape[1] * count
    if needed > largest or first.shape[0] * first.shape[1] > SIZE_LIMIT:
        raise ValueError(f"{first.path}: {count} slices of {first.shape} pixels are too large to be read; reduce them")
    values = np.empty((count, *first.shape), dtype=np.float32)
    whole = True
    for number, each in enumerate(series.slices):
        values[number] = page = _read_pixels(each)
        whole &= bool((page == np.round(page)).all() and np.abs(page).max() < 1 << 15)
    affine = np.eye(4)
    step = (series.slices[-1].position - first.position) / max(count - 1, 1)
    normal = np.cross(first.row, first.column)
    affine[:3, 0], affine[:3, 1] = first.row * first.spacing[1], first.column * first.spacing[0]
    affine[:3, 2] = step if count > 1 else normal * (first.thickness or 1.0)
    affine[:3, 3] = first.position
    return Stack(values.transpose(2, 1, 0), _LPS_TO_RAS @ affine, whole)


def _read_pixels(each: Slice) -> FloatArray:
    """Reads the pixels of a slice, `(rows, columns)`."""
    data = _read(each.path, _PIXELS)
    try:
        samples, bits = int(data.get("SamplesPerPixel") or 1), int(data.get("BitsAllocated") or 0)
        if samples != 1 or data.get("PhotometricInterpretation") != "MONOCHROME2" or bits not in (8, 16, 32):
            raise ValueError(f"{each.path}: grey values (MONOCHROME2) of 8, 16 or 32 bits are needed; convert it")
        if (int(data.Rows), int(data.Columns)) != each.shape or "PixelData" not in data:
            raise ValueError(f"{each.path}: the pixels are missing; export it again")
        needed = each.shape[0] * each.shape[1] * bits // 8
        held = len(data.PixelData)
        if not data.file_meta.TransferSyntaxUID.is_compressed and not needed <= held <= needed + 1:
            raise ValueError(f"{each.path}: the file holds {held} of {needed} bytes of pixels; export it again")
        slope, intercept = (float(data.get(name, other)) for name, other in _RESCALE)
        values: FloatArray = (np.asarray(data.pixel_array, dtype=np.float64) * slope + intercept).astype(np.float32)
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(str(each.path)):
            raise
        raise ValueError(
            f"{each.path}: the pixels cannot be unpacked ({type(error).__name__}); export it uncompressed"
        ) from None
    if values.shape != each.shape or not np.isfinite(values).all():
        raise ValueError(f"{each.path}: its pixels are not finite or not {each.shape}; export it again")
    return values


def to_nifti(series: Series) -> nibabel.Nifti1Image:
    """Reads a series into a NIfTI image on its own grid, int16 where that holds every value, else float32."""
    stack = read_series(series)
    values = stack.values.astype(np.int16 if stack.whole else np.float32)
    image = nibabel.Nifti1Image(values, stack.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(stack.affine, 1)
    image.set_qform(stack.affine, 1)
    return image


def encode_series(series: Series) -> bytes:
    """Returns the content of a NIfTI file, `.nii.gz`, that holds a series and nothing of its patient."""
    return gzip.compress(to_nifti(series).to_bytes(), mtime=0)


def fingerprint_series(series: Series) -> str:
    """Returns a SHA-256 of the files of all slices, in their order."""
    whole = hashlib.sha256()
    for each in series.slices:
        whole.update(hashlib.sha256(each.path.read_bytes()).digest())
    return whole.hexdigest()
