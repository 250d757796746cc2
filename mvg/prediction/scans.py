# The header classes of nibabel, and SimpleITK, carry no types.
# mypy: disable-error-code="no-untyped-call"
"""Volumes in and out: read in RAS+ orientation as in training, written with the grid and header of their file."""

from __future__ import annotations

import gzip
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, cast

import nibabel
import numpy as np
import torch
from nibabel.arrayproxy import ArrayProxy
from nibabel.nifti1 import Nifti1Header
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform
from numpy.typing import NDArray
from torch import Tensor

from mvg.data.dicom import find_series, is_dicom, to_nifti
from mvg.data.geometry import from_slices, to_slices
from mvg.data.itk import FORMATS
from mvg.data.location import Location, read_grid
from mvg.data.readers import PICTURES, VOLUMES, FloatArray, Volume, is_volume
from mvg.prediction.subjects import image_of, is_image, volume_values

if TYPE_CHECKING:
    import SimpleITK as sitk
    import torchio

SCANS = (*VOLUMES, *FORMATS)
_RAS = np.array([[0, 1], [1, 1], [2, 1]])
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Scan:
    """A volume and what its file says of its grid.

    Attributes:
        volume: The values in RAS+ orientation.
        affine: Voxel indices of the file to millimetres, `(4, 4)`.
        shape: Extents in the file.
        kind: The type that holds values in these units: that of the file if it is a whole number of at most 16 bits
            that is not scaled, else float32.
        header: The header of a NIfTI file, or the reader of another that has read its header.
    """

    volume: Volume
    affine: NDArray[np.float64]
    shape: tuple[int, ...]
    kind: np.dtype[Any]
    header: Nifti1Header | sitk.ImageFileReader

    @property
    def voxel(self) -> float:
        """Volume of a voxel in mm^3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))


VolumeSource = Union[str, Path, Scan, NDArray[Any], Tensor, "torchio.Image", "torchio.Subject"]
"""What holds a volume: a file, what was read of one, an array or a tensor `(X, Y, Z)` in RAS+ orientation with voxels
of 1 mm, or an image of TorchIO, or a subject, whose first intensity image is meant."""


def holds_volume(source: Any) -> bool:
    """Tells whether something holds a volume, not a picture."""
    source = image_of(source)
    if isinstance(source, str | Path):
        return is_scan(Path(source))
    if is_image(source):
        return bool(source.shape[-1] > 1)
    return isinstance(source, Scan) or getattr(source, "ndim", 0) == 3


def scan_of(source: VolumeSource, name: str = "volume") -> Scan:
    """Returns a volume with its grid, wherever it is held.

    Args:
        source: Where it is.
        name: What to call it in messages if it has no file.

    Raises:
        ValueError: If it is damaged or no plain volume.
    """
    source = image_of(source)
    if isinstance(source, Scan):
        return source
    if isinstance(source, str | Path):
        return read_scan(Path(source))
    if is_image(source):
        values, affine = volume_values(source)
    else:
        values, affine = np.asarray(source.detach().cpu() if isinstance(source, Tensor) else source), np.eye(4)
    if values.ndim != 3 or 0 in values.shape or values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        raise ValueError(f"{name}: finite numbers (X, Y, Z) are needed, got {values.dtype} of shape {values.shape}")
    kind = values.dtype if values.dtype.kind in "iu" and values.dtype.itemsize <= 2 else np.dtype(np.float32)
    image = nibabel.Nifti1Image(values.astype(kind), affine)
    return _scan_of(image, Path(name), kind)


def _scan_of(image: nibabel.Nifti1Image, path: Path, kind: np.dtype[Any]) -> Scan:
    turned = nibabel.as_closest_canonical(image)
    values = np.ascontiguousarray(turned.get_fdata(dtype=np.float32))
    volume = Volume(values, np.asarray(turned.affine, dtype=np.float64), path)
    _check_angles(volume)
    return Scan(volume, np.asarray(image.affine, dtype=np.float64), image.shape, kind, image.header)


def is_scan(path: Path) -> bool:
    """Tells whether a file is a volume that can be answered, or a slice of a DICOM series, which stands for all."""
    return path.name.lower().endswith(SCANS) or is_slice(path)


def is_slice(path: Path) -> bool:
    """Tells whether a file is a slice of a DICOM series, by its content."""
    return not path.name.lower().endswith((*SCANS, *PICTURES, ".npy")) and is_dicom(path)


def read_scan_values(path: Path) -> Volume:
    """Reads a volume of any kind, after verification, in RAS+ orientation.

    Raises:
        ValueError: If it is missing, damaged, no plain volume, or sheared.
    """
    if is_slice(path):
        return read_scan(path).volume
    volume = read_grid(Location(path))
    if not isinstance(volume, Volume):
        raise ValueError(f"{path}: this is a picture, but a volume ({', '.join(SCANS)}) is needed; export it as one")
    _check_angles(volume)
    return volume


def _check_angles(volume: Volume) -> None:
    axes = volume.affine[:3, :3] / np.array(volume.spacing)
    if not np.abs(axes.T @ axes - np.eye(3)).max() < 1e-3:
        raise ValueError(f"{volume.path}: the affine is sheared; resample the volume onto a grid with right angles")


def read_scan(path: Path) -> Scan:
    """Reads a NIfTI, MetaImage or NRRD volume with its header; see `read_scan_values` for what is refused.

    Of a DICOM series any slice may be named; its header is that of a NIfTI file on the same grid.
    """
    if is_slice(path):
        return _read_series(path)
    volume = read_scan_values(path)
    if not is_volume(path):
        return _read_itk_header(volume, path)
    image = nibabel.Nifti1Image.from_filename(path)
    kind = image.get_data_dtype().newbyteorder("=")
    stored = cast(ArrayProxy, image.dataobj)
    scaled = (stored.slope, stored.inter) != (1, 0)
    if scaled or kind.kind not in "iu" or kind.itemsize > 2:
        kind = np.dtype(np.float32)
    affine = np.asarray(image.header.get_best_affine(), dtype=np.float64)
    return Scan(volume, affine, tuple(image.shape), kind, image.header)


def _read_series(path: Path) -> Scan:
    (series,) = find_series(path)
    image = to_nifti(series)
    return _scan_of(image, Path(series.name), image.get_data_dtype())


def _read_itk_header(volume: Volume, path: Path) -> Scan:
    import SimpleITK as sitk

    header = sitk.ImageFileReader()
    header.SetFileName(str(path))
    header.ReadImageInformation()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(header.GetDirection(), (3, 3)) * header.GetSpacing()
    affine[:3, 3] = header.GetOrigin()
    whole = {sitk.sitkUInt8: "u1", sitk.sitkInt8: "i1", sitk.sitkUInt16: "u2", sitk.sitkInt16: "i2"}
    kind = np.dtype(whole.get(header.GetPixelID(), "f4"))
    return Scan(volume, _LPS @ affine, tuple(header.GetSize()), kind, header)


def cut(values: FloatArray, axis: int) -> FloatArray:
    """Cuts a RAS+ volume `(X, Y, Z)` into upright slices `(n, H, W)`, as in training."""
    slices: FloatArray = to_slices(torch.from_numpy(values), axis).numpy()
    return slices


def uncut(slices: NDArray[Any], axis: int) -> NDArray[Any]:
    """Puts upright slices `(n, H, W)` of any pixel type back into a RAS+ volume `(X, Y, Z)`."""
    bits = np.dtype(f"i{slices.dtype.itemsize}")  # whatever the bits mean, they only move
    volume: NDArray[Any] = from_slices(torch.from_numpy(slices.view(bits)), axis).numpy().view(slices.dtype)
    return volume


def to_grid(volume: NDArray[Any], scan: Scan) -> NDArray[Any]:
    """Puts a RAS+ volume `(X, Y, Z)` onto the grid of a file, in the shape of its header."""
    moved = apply_orientation(volume, ornt_transform(_RAS, io_orientation(scan.affine)))
    return np.ascontiguousarray(moved).reshape(scan.shape)


def encode_volume(values: NDArray[Any], scan: Scan, name: str) -> bytes:
    """Returns the content of a file on the grid of a scan.

    Of NIfTI the header is kept: affine, sform and qform codes, units. Display ranges, texts and extensions, which
    describe the scan or its patient, are left out.

    Args:
        values: In the shape of the scan.
        scan: Whose grid it is.
        name: Name of the file, which says its kind; `.gz` packs it.
    """
    if not is_volume(Path(name)):
        return _encode_itk(values, scan, name)
    if isinstance(scan.header, Nifti1Header):
        header = scan.header.copy()
    else:
        header = Nifti1Header()
        header.set_data_shape(scan.shape)
        header.set_xyzt_units("mm")
        header.set_sform(scan.affine, 1)
        header.set_qform(scan.affine, 1)
    header.set_data_dtype(values.dtype)
    header["cal_min"] = header["cal_max"] = 0
    for text in ("data_type", "db_name", "descrip", "aux_file", "intent_name"):
        header[text] = b""
    header.extensions.clear()
    content: bytes = nibabel.Nifti1Image(values, scan.affine, header).to_bytes()
    return gzip.compress(content, mtime=0) if name.lower().endswith(".gz") else content


def _encode_itk(values: NDArray[Any], scan: Scan, name: str) -> bytes:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(values.reshape(values.shape[:3]).transpose(2, 1, 0)))
    if isinstance(scan.header, sitk.ImageFileReader):
        grid = scan.header.GetOrigin(), scan.header.GetSpacing(), scan.header.GetDirection()
    else:
        axes = (_LPS @ scan.affine)[:3]
        spacing = np.linalg.norm(axes[:, :3], axis=0)
        grid = axes[:, 3].tolist(), spacing.tolist(), (axes[:, :3] / spacing).flatten().tolist()
    image.SetOrigin(grid[0])
    image.SetSpacing(grid[1])
    image.SetDirection(grid[2])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"answer{Path(name).suffix.lower()}"
        sitk.WriteImage(image, str(path), True)
        return path.read_bytes()
