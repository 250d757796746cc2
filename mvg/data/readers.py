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
from typing import TYPE_CHECKING, BinaryIO, cast

import nibabel
import numpy as np
from nibabel.nifti1 import Nifti1Header, data_type_codes
from numpy.typing import NDArray
from PIL import Image

from mvg.wording import counted

if TYPE_CHECKING:
    import SimpleITK as sitk

VOLUMES = (".nii.gz", ".nii")
PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
SIZE_LIMIT = 1 << 26
"""Largest number of pixels of a picture, where none is given."""
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_BLOCK = 1 << 20
LARGEST = 4 << 30
"""Bytes of pixel data beyond which a volume is refused, where no limit is given."""

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


def verify_nifti(path: Path, largest: int = LARGEST) -> Nifti1Header:
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
    header = Nifti1Header(block, endianness=order, check=False)
    if int(header["datatype"]) not in data_type_codes.dtype:
        raise ValueError(f"pixels of the unknown type {int(header['datatype'])}")
    return header


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


def read_volume(path: Path, channel: int | None = None) -> Volume:
    """Reads a NIfTI volume, after verification, in RAS+ orientation.

    The pixels are read by nibabel: ITK's reader silently turns values that are not finite into 0.

    Args:
        path: The file.
        channel: Which of the 3D volumes of the file is wanted, from 0; None if it holds only one.

    Raises:
        ValueError: If the file is damaged, lacks the channel or holds several where none is named, is no scalar 3D
            volume, states two different geometries (sform, qform, spacing), is sheared, or holds values that are not
            finite.
    """
    header = verify_nifti(path)
    shape = tuple(int(extent) for extent in header["dim"][1 : int(header["dim"][0]) + 1])
    held = math.prod(shape[3:])
    if len(shape) < 3 or (channel is None and held != 1):
        raise ValueError(f"{path}: a 3D volume is needed, got shape {shape}; split it into one file per volume")
    if channel is not None and not 0 <= channel < held:
        raise ValueError(f"{path}: there is no channel {channel}, it holds {held} (shape {shape}); correct the number")
    if header.get_data_dtype().kind not in "iufb":
        raise ValueError(f"{path}: grey values are needed, got pixels of type {header.get_data_dtype()}")
    check_geometry(path, header)
    image = nibabel.Nifti1Image.from_filename(path, mmap=False)
    place = tuple(int(index) for index in np.unravel_index(channel or 0, shape[3:], order="F")) if shape[3:] else ()
    image = nibabel.as_closest_canonical(image.slicer[(slice(None),) * 3 + place])
    values = np.ascontiguousarray(image.get_fdata(dtype=np.float32))
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise ValueError(
            f"{path}: {counted(bad, 'voxel')} not finite (NaN or infinite); replace them, or leave the case out"
        )
    return Volume(values, np.asarray(image.affine, dtype=np.float64), path)


def check_geometry(path: Path, header: Nifti1Header) -> None:
    """Checks that what a header says of its geometry is of one piece.

    Args:
        path: The file, for the message.
        header: Its header.

    Raises:
        ValueError: If sform, qform and spacing, where present, differ by more than a hundredth of a voxel over the
            volume, or if the axes are not at right angles.
    """
    affine = header.get_best_affine()
    extent = np.array([int(size) for size in header["dim"][1:4]], dtype=np.float64)
    lengths, smallest = np.linalg.norm(affine[:3, :3], axis=0), float(np.abs(header["pixdim"][1:4]).min())
    allowed = 0.01 * smallest * max(1.0, float(extent.max()) / 100)
    distances = {"spacing": float(np.abs((lengths - np.abs(header["pixdim"][1:4])) * extent).max())}
    for name, (stated, code) in (("sform", header.get_sform(coded=True)), ("qform", header.get_qform(coded=True))):
        if code:
            distances[name] = float(np.abs(_corners(extent) @ (stated - affine).T).max())
    for name, distance in distances.items():
        if not distance <= allowed:
            raise ValueError(
                f"{path}: the {name} of the header disagrees with its affine by {distance:.3g} mm; "
                "set sform, qform and spacing to the true ones"
            )
    angles = (affine[:3, :3] / lengths).T @ (affine[:3, :3] / lengths)
    if not np.abs(angles - np.eye(3)).max() < 1e-3:
        raise ValueError(f"{path}: the affine is sheared; resample the volume onto a grid with right angles")


def _corners(extent: NDArray[np.float64]) -> NDArray[np.float64]:
    """The corners of a volume as homogeneous voxel coordinates, `(8, 4)`."""
    return np.stack([np.append(extent * corner, 1) for corner in np.ndindex(2, 2, 2)])


def _to_image(volume: Volume) -> sitk.Image:
    import SimpleITK as sitk

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
    return corner_distance(first, second) < 0.05 * min(first.spacing)


def corner_distance(first: Volume, second: Volume) -> float:
    """Largest distance between corners of the same indices, in mm along one axis, for two volumes of one shape."""
    corners = _corners(np.array(first.values.shape, dtype=np.float64))
    return float(np.abs(corners @ (first.affine - second.affine).T).max())


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
    import SimpleITK as sitk

    grid, image = _to_image(onto), _to_image(volume)
    kind = sitk.sitkNearestNeighbor if labels else sitk.sitkLinear
    moved = sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), kind, 0.0)).transpose(2, 1, 0)
    ones = _to_image(Volume(np.ones_like(volume.values), volume.affine, volume.path))
    seen = sitk.GetArrayFromImage(sitk.Resample(ones, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0))
    return Volume(moved.astype(np.float32), onto.affine, volume.path), seen.transpose(2, 1, 0) > 0.5


def open_picture(path: Path, size_limit: int = SIZE_LIMIT) -> Image.Image:
    """Opens and decodes an image file.

    Args:
        path: PNG, TIFF, JPEG or BMP.
        size_limit: Largest number of pixels.

    Raises:
        ValueError: If the file is missing or damaged, or `picture_fault` finds a fault.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.format == "PNG":
                    image.verify()  # decoding leaves the checksums of the chunks unread
            with Image.open(path) as image:
                fault = picture_fault(image, size_limit)
                if fault is None:
                    image.load()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: the file does not exist") from error
    except Exception as error:  # a damaged file makes Pillow stumble in many ways
        raise ValueError(
            f"{path}: the picture is damaged or too large ({error}); restore it from its origin"
        ) from error
    if fault is not None:
        raise ValueError(f"{path}: {fault}")
    return image


def picture_fault(image: Image.Image, size_limit: int = SIZE_LIMIT) -> str | None:
    """Says why a whole picture cannot be used: too many pixels, several pages, or 16-bit colours; None if it can."""
    pixels, pages = image.width * image.height, getattr(image, "n_frames", 1)
    if pixels > size_limit:
        return f"{pixels} pixels are more than the limit of {size_limit}; make the picture smaller or raise the limit"
    if pages > 1:
        return f"one picture is needed, got {pages} pages; split them"
    if ";16" in str(getattr(image, "tile", "")) and not image.mode.startswith("I"):
        return "16-bit colours would lose half of their bits; save 16-bit grey or 8-bit colours"
    return None


def read_picture(path: Path, labels: bool = False) -> Picture:
    """Reads an image file: 8 or 16 bits, grey, palette or colour.

    Args:
        path: PNG, TIFF, JPEG or BMP.
        labels: Keep the stored indices; otherwise colours are turned into luminance.

    Raises:
        ValueError: If the file is damaged, holds several pages or 16-bit colours, or is a label map in colour.
    """
    image = open_picture(path)
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
