# SimpleITK and the header classes of nibabel carry no types.
# mypy: disable-error-code="no-untyped-call"
"""Files to arrays: every stream is verified to its end before a reader sees it, every error names the file."""

from __future__ import annotations

import gzip
import math
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import SimpleITK as sitk
from nibabel.nifti1 import Nifti1Header
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

VOLUMES = (".nii.gz", ".nii")
PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_BLOCK = 1 << 20
_LARGEST = 4 << 30

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Volume:
    """A scan in RAS+ orientation.

    Attributes:
        values: `(X, Y, Z)`, in the units of the file; X grows to the patient's right, Y to the front, Z to the head.
        affine: `(4, 4)`, voxel indices to millimetres.
        path: The file.
    """

    values: FloatArray
    affine: NDArray[np.float64]
    path: Path

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along X, Y and Z, in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


@dataclass(frozen=True)
class Picture:
    """A 2D image file.

    Attributes:
        values: `(H, W)`, grey values or class indices as stored.
        full_scale: The largest value that the file's pixel type can hold, 255 or 65535.
        path: The file.
    """

    values: FloatArray
    full_scale: float
    path: Path


def case_name(path: Path) -> str:
    """Returns the file name without its extension, `.nii.gz` included.

    >>> case_name(Path("images/brain_01.nii.gz"))
    'brain_01'
    """
    name = path.name
    for suffix in VOLUMES + PICTURES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem


def is_volume(path: Path) -> bool:
    """Tells whether a file is a volume, by its extension."""
    return path.name.lower().endswith(VOLUMES)


def verify_nifti(path: Path, largest: int = _LARGEST) -> Nifti1Header:
    """Reads a NIfTI-1 file to its end without keeping it, and returns its header.

    Truncated files, broken gzip streams, headers that promise more or less than the file holds, and files that grow
    out of proportion when they are unpacked are refused; readers would accept some of them silently.

    Args:
        path: A single-file NIfTI-1, packed or not.
        largest: Bytes of pixel data beyond which a file is refused.

    Raises:
        ValueError: If the file is not a complete, plausible NIfTI-1; the message names it.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        if packed != path.name.lower().endswith(".gz"):
            raise ValueError("its name and its content disagree on gzip")
        with cast(BinaryIO, gzip.open(path, "rb")) if packed else path.open("rb") as stream:
            block = stream.read(348)
            header = _parse_header(block)
            needed = _bytes_needed(header, largest)
            held = len(block) + sum(len(part) for part in _bounded(stream, needed))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: the file does not exist") from error
    except (EOFError, OSError, zlib.error, ValueError) as error:
        raise ValueError(f"{path}: the file is damaged or no NIfTI-1 ({error}); restore it from its origin") from error
    if held < needed:
        raise ValueError(f"{path}: the file is truncated, {held} of {needed} bytes; restore it from its origin")
    return header


def _parse_header(block: bytes) -> Nifti1Header:
    if len(block) < 348 or block[344:348] != b"n+1\0":
        raise ValueError("no single-file NIfTI-1 header")
    order = "<" if block[:4] == b"\x5c\x01\0\0" else ">"
    return Nifti1Header(block, endianness=order, check=False)


def _bytes_needed(header: Nifti1Header, largest: int) -> int:
    """Returns the size of the unpacked file that a header promises."""
    axes, offset, bits = int(header["dim"][0]), float(header["vox_offset"]), int(header["bitpix"])
    if not 1 <= axes <= 7 or not 352 <= offset < 1e8 or bits < 1:
        raise ValueError(f"header of {axes} axes, data at byte {offset:g}, {bits} bits a voxel")
    shape = [int(extent) for extent in header["dim"][1 : axes + 1]]
    if min(shape) < 1:
        raise ValueError(f"header of shape {shape}")
    needed = int(offset) + math.prod(shape) * bits // 8
    if needed > largest:
        raise ValueError(f"header of shape {shape} claims {needed} bytes, more than {largest}")
    return needed


def _bounded(stream: BinaryIO, needed: int) -> Iterator[bytes]:
    """Reads a stream to its end, but stops when it holds much more than it should."""
    held = 0
    while part := stream.read(_BLOCK):
        held += len(part)
        if held > needed + _BLOCK:
            raise ValueError(f"more data than the {needed} bytes of the header")
        yield part


def read_volume(path: Path) -> Volume:
    """Reads a NIfTI volume, after verification, in RAS+ orientation.

    Raises:
        ValueError: If the file is damaged, holds anything but one scalar 3D volume, states two different geometries
            (sform and qform), is sheared, or holds values that are not finite.
    """
    header = verify_nifti(path)
    shape = tuple(int(extent) for extent in header["dim"][1 : int(header["dim"][0]) + 1])
    if len(shape) < 3 or math.prod(shape[3:]) != 1:
        raise ValueError(f"{path}: a 3D volume is needed, got shape {shape}; split it into one file per volume")
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise ValueError(f"{path}: cannot be read ({str(error).strip().splitlines()[-1]})") from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(f"{path}: grey values are needed, got a colour or vector volume")
    if image.GetDimension() > 3:
        image = image[(slice(None),) * 3 + (0,) * (image.GetDimension() - 3)]
    check_geometry(path, header, _affine_of(image))
    volume = _to_volume(sitk.DICOMOrient(sitk.Cast(image, sitk.sitkFloat32), "RAS"), path)
    bad = volume.values.size - int(np.isfinite(volume.values).sum())
    if bad:
        raise ValueError(f"{path}: {bad} voxels are NaN or infinite; replace them or leave the case out")
    return volume


def check_geometry(path: Path, header: Nifti1Header, affine: NDArray[np.float64]) -> None:
    """Checks that a header's sform and qform, where present, say what the reader understood.

    Args:
        path: The file, for the message.
        header: Its header.
        affine: `(4, 4)` RAS affine that the reader used.

    Raises:
        ValueError: If they differ by more than a hundredth of a voxel over the volume, or are not finite.
    """
    extent = np.array([int(size) for size in header["dim"][1:4]], dtype=np.float64)
    corners = np.stack([np.append(extent * corner, 1) for corner in np.ndindex(2, 2, 2)])
    smallest = float(np.linalg.norm(affine[:3, :3], axis=0).min())
    for name, stated in (("sform", header.get_sform(coded=True)), ("qform", header.get_qform(coded=True))):
        if stated[1] == 0:
            continue
        distance = float(np.abs((corners @ stated[0].T - corners @ affine.T)[:, :3]).max())
        if not distance <= 0.01 * smallest * max(1.0, float(extent.max()) / 100):
            raise ValueError(
                f"{path}: the {name} of the header disagrees with the geometry that was read, by {distance:.3g} mm; "
                "set sform and qform to the true one"
            )


def _affine_of(image: sitk.Image) -> NDArray[np.float64]:
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = _LPS_TO_RAS @ direction @ np.diag(image.GetSpacing())
    affine[:3, 3] = _LPS_TO_RAS @ np.array(image.GetOrigin())
    return affine


def _to_volume(image: sitk.Image, path: Path) -> Volume:
    values = sitk.GetArrayFromImage(image).transpose(2, 1, 0).astype(np.float32)
    return Volume(values=values, affine=_affine_of(image), path=path)


def _to_image(volume: Volume) -> sitk.Image:
    image = sitk.GetImageFromArray(volume.values.transpose(2, 1, 0))
    spacing = np.array(volume.spacing)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((_LPS_TO_RAS @ volume.affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin((_LPS_TO_RAS @ volume.affine[:3, 3]).tolist())
    return image


def same_grid(first: Volume, second: Volume) -> bool:
    """Tells whether two volumes share shape and place, to a twentieth of a voxel at every corner."""
    if first.values.shape != second.values.shape:
        return False
    extent = np.array(first.values.shape)
    corners = np.stack([np.append(extent * corner, 1) for corner in np.ndindex(2, 2, 2)])
    return bool(np.abs(corners @ (first.affine - second.affine).T).max() < 0.05 * min(first.spacing))


def resample(volume: Volume, onto: Volume, labels: bool = False) -> tuple[Volume, NDArray[np.bool_]]:
    """Brings a volume onto another's grid by the two affines.

    Args:
        volume: What is resampled.
        onto: Whose grid is taken.
        labels: Nearest voxel instead of linear interpolation.

    Returns:
        The volume on the new grid, 0 outside of its field of view, and a mask of its field of view.
    """
    if same_grid(volume, onto):
        return volume, np.ones(onto.values.shape, dtype=bool)
    grid, image = _to_image(onto), _to_image(volume)
    kind = sitk.sitkNearestNeighbor if labels else sitk.sitkLinear
    moved = _to_volume(sitk.Resample(image, grid, sitk.Transform(), kind, 0.0), volume.path)
    ones = _to_image(Volume(np.ones_like(volume.values), volume.affine, volume.path))
    seen = _to_volume(sitk.Resample(ones, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0), volume.path)
    return Volume(moved.values, onto.affine, volume.path), seen.values > 0.5


def read_picture(path: Path, labels: bool = False) -> Picture:
    """Reads an image file: 8 or 16 bits, grey, palette or colour.

    Args:
        path: PNG, TIFF, JPEG or BMP.
        labels: Keep the stored indices; otherwise colours are turned into luminance.

    Raises:
        ValueError: If the file is damaged, holds several pages, or is a label map in colour.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: the file does not exist") from error
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, zlib.error, Warning) as error:
        raise ValueError(
            f"{path}: the picture is damaged or too large ({error}); restore it from its origin"
        ) from error
    if getattr(image, "n_frames", 1) > 1:
        raise ValueError(f"{path}: one picture is needed, got {image.n_frames} pages; split them")  # type: ignore[attr-defined]
    if image.mode.startswith(("I", "F")):
        values, full_scale = np.asarray(image, dtype=np.float32), 65535.0
    elif labels and image.mode not in ("L", "P", "1"):
        raise ValueError(f"{path}: a label map must hold class indices, got colours (mode {image.mode})")
    else:
        grey = image if labels or image.mode == "L" else image.convert("L")
        values, full_scale = np.asarray(grey, dtype=np.float32), 255.0
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: some pixels are NaN or infinite; replace them or leave the case out")
    return Picture(values, full_scale, path)


def check_labels(values: FloatArray, path: Path, known: frozenset[int]) -> None:
    """Checks that a label map holds whole, known class indices.

    Args:
        values: `(*S)`, as read.
        path: The file, for the message.
        known: Allowed indices besides 0; empty allows every index from 0 to 65535.

    Raises:
        ValueError: If an index is fractional, negative, too large or unknown.
    """
    found = np.unique(values)
    if (found != np.round(found)).any() or found[0] < 0 or found[-1] > 65535:
        raise ValueError(f"{path}: labels must be whole numbers from 0 to 65535, got {found[:5].tolist()}")
    strange = sorted({int(index) for index in found} - known - {0}) if known else []
    if strange:
        raise ValueError(f"{path}: classes {strange} are not in `class_names` ({sorted(known)}); name them all")
