# SimpleITK carries no types.
# mypy: disable-error-code="no-untyped-call"
"""Files that a recipe has to make: label maps with other values, of joined masks, of boxes; volumes of DICOM series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image

from mvg.data.location import Location, read_grid
from mvg.data.readers import Picture, Volume, read_picture
from mvg.files import write_atomically

Box = tuple[float, float, float, float]
"""Left, upper, right and lower edge in pixels, (x1, y1, x2, y2)."""


def map_labels(path: Path, target: Path, values: Mapping[int, int]) -> None:
    """Writes a label map anew, with classes in place of stored values.

    Args:
        path: A volume.
        target: NIfTI file to write.
        values: Stored value to class; 0 stays 0.

    Raises:
        ValueError: If the file is damaged or holds other values.
    """
    volume = read_grid(Location(path), labels=True)
    if not isinstance(volume, Volume):
        raise ValueError(f"{path}: a volume is needed, got a picture; restore it from its origin")
    classes = np.zeros(volume.values.shape, dtype=np.uint8)
    if strange := sorted(set(np.unique(volume.values).tolist()) - {0.0} - {float(value) for value in values}):
        raise ValueError(f"{path}: the values {strange[:5]} are not among {sorted(values)}; restore it from its origin")
    for value, index in values.items():
        classes[volume.values == value] = index
    write_volume(target, classes, volume.affine)


def join_masks(masks: Mapping[int, Path], target: Path) -> None:
    """Writes one label map of a mask for each class; where masks overlap, the later class stays.

    Args:
        masks: Class to its mask, a volume or a picture; every value above 0 belongs to it.
        target: NIfTI file or PNG to write, as the masks are volumes or pictures.

    Raises:
        ValueError: If a mask is damaged, or differs from the first one in shape.
    """
    first: Volume | Picture | None = None
    classes: NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)
    for index, path in masks.items():
        mask = read_grid(Location(path), labels=True)
        if first is None:
            first, classes = mask, np.zeros(mask.values.shape, dtype=np.uint8)
        if mask.values.shape != classes.shape:
            raise ValueError(
                f"{path}: the mask has shape {mask.values.shape}, but {first.path.name} {classes.shape}; restore both"
            )
        classes[mask.values > 0] = index
    if isinstance(first, Volume):
        write_volume(target, classes, first.affine)
    else:
        write_picture(target, classes)


def paint_boxes(image: Path, boxes: Sequence[Box], target: Path) -> None:
    """Writes a label map of the size of a picture in which boxes are filled with class 1.

    Args:
        image: The picture.
        boxes: The boxes.
        target: PNG to write.

    Raises:
        ValueError: If the picture is damaged, or a box leaves it or is empty.
    """
    height, width = read_picture(image).values.shape
    classes = np.zeros((height, width), dtype=np.uint8)
    for left, upper, right, lower in boxes:
        columns = slice(max(0, int(left)), min(width, int(np.ceil(right))))
        rows = slice(max(0, int(upper)), min(height, int(np.ceil(lower))))
        if columns.start >= columns.stop or rows.start >= rows.stop:
            raise ValueError(
                f"{image}: box {left:g}, {upper:g}, {right:g}, {lower:g} lies outside of {width} x {height} pixels; "
                "restore the picture and the table of boxes"
            )
        classes[rows, columns] = 1
    write_picture(target, classes)


def convert_series(folder: Path, target: Path) -> None:
    """Writes the DICOM images of a folder, one series, as a NIfTI volume in their units.

    Args:
        folder: The folder; every DICOM file in it belongs to the series.
        target: NIfTI file to write.

    Raises:
        ValueError: If it holds no series or several, or a slice is missing or damaged.
    """
    reader = sitk.ImageSeriesReader()
    series = reader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise ValueError(f"{folder}: one DICOM series is needed, found {len(series)}; restore it from its origin")
    names = reader.GetGDCMSeriesFileNames(str(folder), series[0])
    if left := sorted({str(path) for path in folder.glob("*.dcm")} - set(names)):
        raise ValueError(f"{left[0]}: the file is damaged or of another series; restore it from its origin")
    try:
        _check_gaps(folder, names)
        reader.SetFileNames(names)
        image = reader.Execute()
    except RuntimeError as error:
        raise ValueError(f"{folder}: the DICOM series is damaged ({error}); restore it from its origin") from error
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    values = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    whole = np.round(values)
    write_volume(target, whole.astype(np.int16), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def _check_gaps(folder: Path, names: Sequence[str]) -> None:
    """Compares the distances between slices, as the reader would place a slice wrongly after a missing one."""
    places = []
    for name in names:
        header = sitk.ImageFileReader()
        header.SetFileName(name)
        header.ReadImageInformation()
        places.append(header.GetOrigin())
    steps = np.linalg.norm(np.diff(np.array(places), axis=0), axis=1)
    if len(steps) and steps.max() - steps.min() > 0.05 * float(np.median(steps)):
        raise ValueError(
            f"{folder}: the distances of {len(names)} slices lie between {steps.min():.3g} and {steps.max():.3g} mm; "
            "restore the missing ones"
        )


def write_volume(target: Path, values: NDArray[np.generic], affine: NDArray[np.float64]) -> None:
    """Writes an array `(X, Y, Z)` as NIfTI, whole or not at all."""
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}")
    image.to_filename(part)
    part.replace(target)


def write_picture(target: Path, values: NDArray[np.uint8]) -> None:
    """Writes an array `(H, W)` as PNG, whole or not at all."""
    write_atomically(target, lambda file: Image.fromarray(values).save(file, format="PNG"))
