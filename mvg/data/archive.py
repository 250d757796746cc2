"""Entries of NPZ archives, which hold many images in one array."""

from __future__ import annotations

import math
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvg.data.readers import LARGEST, FloatArray, Picture, Volume

_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_FULL_SCALE = {"b1": 1.0, "u1": 255.0, "u2": 65535.0}


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every array of an archive without reading their values.

    Raises:
        ValueError: If the file is missing or no archive of plain arrays, or claims more than 4 GiB for an array.
    """
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as stream:
                    version = np.lib.format.read_magic(stream)
                    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else _read_header_2_0
                    shape, _, kind = read(stream)
                if kind.hasobject:
                    raise ValueError(f"array {name} holds Python objects")
                if math.prod(shape) * kind.itemsize > LARGEST:
                    raise ValueError(f"array {name} of shape {shape} is larger than {LARGEST} bytes")
                found[name.removesuffix(".npy")] = shape
    except FileNotFoundError as error:
        raise ValueError(f"{path}: the file does not exist") from error
    except Exception as error:  # a damaged archive makes its readers stumble in many ways
        raise ValueError(f"{path}: the archive cannot be used ({error}); restore it from its origin") from error
    return found


def _read_header_2_0(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    return np.lib.format.read_array_header_2_0(stream)


def read_entry(path: Path, part: str, labels: bool = False) -> Picture | Volume:
    """Reads one image of an array `(n, H, W)`, `(n, H, W, 1)`, `(n, H, W, 3)` or `(n, X, Y, Z)`.

    Args:
        path: The archive.
        part: Name of the array, `/` and number of the entry.
        labels: Keep class indices; otherwise colours are turned into luminance.

    Returns:
        A picture, or, for arrays of volumes, a volume of 1 mm voxels whose axes are taken for X, Y and Z.

    Raises:
        ValueError: If archive, array or entry do not exist or are damaged, or the entry is of a kind that is not read.
    """
    name, _, number = part.partition("/")
    if not number.isdigit():
        raise ValueError(f"{path}: an archive needs array and number of the image, such as {path.name}#train_images/0")
    array = _open(path, name, path.stat().st_mtime_ns if path.exists() else 0)
    if int(number) >= len(array):
        raise ValueError(f"{path}#{part}: array {name!r} holds {len(array)} images; correct the number")
    entry = array[int(number)]
    values: FloatArray = entry.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{path}#{part}: some pixels are NaN or infinite; replace them or leave the case out")
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim == 3 and values.shape[-1] == 3:
        if labels:
            raise ValueError(f"{path}#{part}: a label map must hold class indices, got colours")
        values = values @ _LUMINANCE
    place = Path(f"{path}#{part}")
    if values.ndim == 3:
        return Volume(values, np.eye(4), place)
    if values.ndim != 2:
        raise ValueError(f"{path}#{part}: one grey or colour image is needed, got shape {entry.shape}")
    scale = _FULL_SCALE.get(entry.dtype.str[1:])
    if scale is None:
        scale = next((bound for bound in (1.0, 255.0) if values.max() <= bound), 65535.0)
    return Picture(values, scale, place)


@lru_cache(maxsize=2)
def _open(path: Path, name: str, changed: int) -> NDArray[Any]:
    """Reads an array whole, as a packed one cannot be read in parts; those of an image and its label stay open."""
    known = shapes(path)
    if name not in known:
        raise ValueError(f"{path}: there is no array {name!r}, but {', '.join(sorted(known))}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            array: NDArray[Any] = archive[name]
    except Exception as error:  # a damaged archive makes its readers stumble in many ways
        raise ValueError(f"{path}: array {name!r} is damaged ({error}); restore it from its origin") from error
    if array.dtype.kind not in "biuf" or array.ndim < 3:
        raise ValueError(f"{path}: array {name!r} is no stack of images ({array.dtype}, shape {array.shape})")
    return array


def close_archives() -> None:
    """Lets go of the arrays that were read last."""
    _open.cache_clear()
