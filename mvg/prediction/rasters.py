"""2D images in and out: any file, array, tensor or PIL image to tensors in [0, 1], and back to its own units."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mvg.data.dicom import find_series
from mvg.data.intensity import Percentiles, normalise
from mvg.data.readers import (
    PICTURES,
    SIZE_LIMIT,
    case_name,
    check_labels,
    open_picture,
    picture_fault,
)
from mvg.prediction.scans import SCANS, is_scan, is_slice
from mvg.prediction.subjects import image_of, is_image, picture_values
from mvg.wording import counted

if TYPE_CHECKING:
    import torchio

READABLE = (*PICTURES, ".npy")
WRITABLE = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".npy": "NPY"}
_FULL_SCALE = {"b": 1.0, "u1": 255.0, "u2": 65535.0}
_LUMINANCE = (0.299, 0.587, 0.114)

Source = Union[Path, str, Image.Image, NDArray[Any], Tensor, "torchio.Image", "torchio.Subject"]
"""What holds an image: a file, a PIL image, an array `(H, W)` or `(H, W, C)`, a tensor `(H, W)` or `(C, H, W)`, or an
image of TorchIO, or a subject, whose first intensity image is meant."""


@dataclass(frozen=True)
class Raster:
    """An image as it is stored.

    Attributes:
        values: `(C, H, W)`, in the units and the pixel type of its file.
        name: The file, or what stands for it in messages.
    """

    values: NDArray[Any]
    name: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.values.shape[1], self.values.shape[2]

    @property
    def full_scale(self) -> float | None:
        """The largest value of 8-bit and 16-bit pixels; None for other types, which state no range."""
        kind = self.values.dtype.str[1:]
        return _FULL_SCALE.get(kind, _FULL_SCALE.get(kind[0]))


def read_raster(source: Source, name: str = "image", labels: bool = False, size_limit: int = SIZE_LIMIT) -> Raster:
    """Reads an image; transparency is ignored.

    Args:
        source: Where it is.
        name: What to call it in messages if it has no file.
        labels: Keep the indices of a palette instead of its colours.
        size_limit: Largest number of pixels.

    Raises:
        ValueError: If it is damaged, too large, of a kind that is not read, or holds values that are not finite.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        name, values = str(path), _read_file(path, labels, size_limit)
    elif isinstance(source, Image.Image):
        fault = picture_fault(source, size_limit)
        if fault is not None:
            raise ValueError(f"{name}: {fault}")
        values = _values(source, labels)
    elif is_image(source):
        values = picture_values(image_of(source))
    elif isinstance(source, Tensor):
        values = (source.float() if source.dtype == torch.bfloat16 else source).detach().cpu().numpy()
    else:
        values = channels_first(np.asarray(source))
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"{name}: a 2D image of one or more channels is needed, got shape {values.shape}")
    if values[0].size > size_limit:
        raise ValueError(f"{name}: {values[0].size} pixels are more than the limit of {size_limit}; raise `size_limit`")
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name}: numbers are needed, got pixels of type {values.dtype}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ValueError(
            f"{name}: {counted(count, 'value')} not finite (NaN or infinite); replace them, or leave the image out"
        )
    return Raster(values.astype(values.dtype.newbyteorder("="), copy=False), name)


def channels_first(values: NDArray[Any]) -> NDArray[Any]:
    """Turns `(H, W, C)` into `(C, H, W)`."""
    return np.moveaxis(values, -1, 0) if values.ndim == 3 else values


def _read_file(path: Path, labels: bool, size_limit: int) -> NDArray[Any]:
    if not path.is_file():
        raise ValueError(f"{path}: the file does not exist")
    if is_scan(path):
        raise ValueError(
            f"{path}: this is a volume, but a 2D image is needed; use mvg.VolumePredictor, or export slices"
        )
    if path.suffix.lower() not in READABLE:
        raise ValueError(f"{path}: a picture must be one of {', '.join(READABLE)}; convert it")
    if path.suffix.lower() != ".npy":
        return _values(open_picture(path, size_limit), labels)
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        return channels_first(mapped if mapped.size > 4 * size_limit else np.array(mapped))
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: the array cannot be read ({error}); restore it from its origin") from error


def _values(image: Image.Image, labels: bool) -> NDArray[Any]:
    """Returns `(C, H, W)` or `(H, W)`."""
    if labels and image.mode in ("P", "1"):
        return np.asarray(image).astype(np.uint8)
    if image.mode.startswith(("I", "F")):
        return np.asarray(image)
    grey = image.mode in ("1", "L", "LA", "La")
    return channels_first(np.asarray(image.convert("L" if grey else "RGB")))


def label_map(raster: Raster) -> Tensor:
    """Returns the class indices of a label map, `(H, W)` int64.

    Raises:
        ValueError: If it holds colours, or values that are no indices, or was stored with losses.
    """
    values = raster.values
    if Path(raster.name).suffix.lower() in (".jpg", ".jpeg"):
        raise ValueError(f"{raster.name}: JPEG alters class indices; save label maps as PNG")
    if (values != values[:1]).any():
        raise ValueError(f"{raster.name}: a label map must hold class indices, got colours; save it as indexed PNG")
    check_labels(values[0].astype(np.float32), Path(raster.name), frozenset())
    return torch.from_numpy(values[0].astype(np.int64))


def limits(raster: Raster, window: tuple[float, float] | None = None) -> tuple[float, float]:
    """Returns the values that become 0 and 1.

    The window, if there is one; else the whole range of 8-bit and 16-bit pixels; else, where the values lie in
    [0, 1], these; else the percentiles 0.5 and 99.5 of the foreground.
    """
    if window is not None:
        return window
    if raster.full_scale is not None:
        return 0.0, raster.full_scale
    values = raster.values.astype(np.float32)
    if raster.values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1:
        return 0.0, 1.0
    return Percentiles().limits(values, None)


_NEAR = 0.25
"""How far from its bound, in [0, 1], an answer is taken for another value, such as in a hole."""


def dark_range(rasters: Sequence[Raster]) -> int | None:
    """Returns the largest value of pictures of 16 bits that use less than an eighth of their range, else None.

    Scanners often give 10 or 12 of the 16 bits; over the whole range such pictures are nearly black.
    """
    if any(raster.full_scale is None or raster.values.dtype.itemsize < 2 for raster in rasters):
        return None
    largest, full = max(int(raster.values.max()) for raster in rasters), float(rasters[0].full_scale or 0)
    return largest if 0 < largest < full / 8 else None


def to_tensor(raster: Raster, bounds: tuple[float, float], channels: int) -> Tensor:
    """Returns an image in [0, 1] with the channels of a network: grey is repeated, colours become luminance for one.

    Args:
        raster: The image.
        bounds: The values that become 0 and 1.
        channels: What the network takes.

    Returns:
        `(channels, H, W)`, float32.

    Raises:
        ValueError: If the image has another number of channels.
    """
    image = torch.from_numpy(normalise(raster.values.astype(np.float32), bounds))
    held = len(image)
    if held == channels:
        return image
    if held == 1:
        return image.expand(channels, *image.shape[1:])
    if held == 3 and channels == 1:
        return (image * image.new_tensor(_LUMINANCE).view(3, 1, 1)).sum(0, keepdim=True)
    wanted = "1" if channels == 1 else f"1 or {channels}"
    raise ValueError(
        f"{raster.name}: it has {counted(held, 'channel')}, but the network takes {channels}; give it {wanted}"
    )


def to_units(
    image: Tensor, bounds: tuple[float, float], kind: np.dtype[Any], query: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Brings an image in [0, 1] back into its units and pixel type.

    Args:
        image: `(C, *S)`.
        bounds: The values of 0 and 1.
        kind: The type.
        query: What was restored, `(C, *S)` in its units: how far it goes beyond the bounds, which the network was not
            shown, is added where the image stays near the bound (see `_NEAR`); None for all other tasks.

    Returns:
        `(*S)`, or `(*S, C)` for several channels.
    """
    low, high = bounds
    values: NDArray[Any] = image.double().numpy() * (high - low) + low
    if query is not None and image.shape == query.shape:
        shown = normalise(query.astype(np.float32), bounds)
        stays = np.clip(1 - np.abs(image.float().numpy() - shown) / _NEAR, 0, 1)
        values += stays * (query - np.clip(query, low, high))
    if kind.kind in "biu":
        least, most = (0, 1) if kind.kind == "b" else (np.iinfo(kind).min, np.iinfo(kind).max)
        values = np.clip(values.round(), least, most)
    values = values.astype(kind)
    return values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)


def check_writable(path: Path, kind: np.dtype[Any], channels: int = 1) -> None:
    """Checks that a file of this name can hold an image of a pixel type and a number of channels.

    Raises:
        ValueError: If not.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        raise ValueError(f"{path}: answers are written as {', '.join(WRITABLE)}; choose one of these")
    if suffix == ".png" and kind.kind != "b" and kind not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise ValueError(f"{path}: PNG cannot hold pixels of type {kind}; name the output .tif or .npy")
    if suffix != ".npy" and channels > 1 and (channels != 3 or kind != np.uint8):
        raise ValueError(f"{path}: pictures cannot hold {channels} channels of type {kind}; name the output .npy")


def encode(values: NDArray[Any], suffix: str) -> bytes:
    """Returns the content of a file `.png`, `.tif` or `.npy` that holds an image `(H, W)` or `(H, W, C)`."""
    stream = io.BytesIO()
    if suffix.lower() == ".npy":
        np.save(stream, values, allow_pickle=False)
    else:
        Image.fromarray(np.ascontiguousarray(values)).save(stream, format=WRITABLE[suffix.lower()])
    return stream.getvalue()


def images_in(folder: Path, without: tuple[str, ...] = ()) -> dict[str, Path]:
    """Lists the 2D images, or the volumes, of a folder by their name without extension, or else its DICOM series.

    Args:
        folder: The folder.
        without: Endings of names, extension aside, that are left out.

    Raises:
        ValueError: If there are none, or both, or two of one name.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    files = [path for path in files if (is_scan(path) or path.suffix.lower() in READABLE) and not is_slice(path)]
    files = [path for path in files if not case_name(path).endswith(without)]
    found: dict[str, Path] = {}
    for path in files:
        name = case_name(path)
        if is_scan(path) != is_scan(files[0]):
            raise ValueError(f"{path}: the folder holds both volumes and pictures; give each a folder of its own")
        if name in found:
            raise ValueError(f"{path}: {found[name].name} has the same name; keep one of them")
        found[name] = path
    found = found or {series.name: series.slices[0].path for series in find_series(folder)}
    if not found:
        kinds = ", ".join((*READABLE, *SCANS))
        raise ValueError(f"{folder}: no picture, no volume ({kinds}) and no DICOM series is in this folder")
    return found
