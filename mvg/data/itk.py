# SimpleITK carries no types.
# mypy: disable-error-code="no-untyped-call"
"""MetaImage and NRRD volumes: the header is compared with the file before ITK reads it."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from mvg.data.readers import LARGEST, Volume

FORMATS = (".mha", ".nrrd")
HEADERS = (".mhd",)
"""MetaImage headers whose pixels lie in a file of their own."""
_HEADER = 1 << 16
_BLOCK = 1 << 20
_META_BYTES = {"CHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "FLOAT": 4, "DOUBLE": 8, "LONG_LONG": 8}
_META_BYTES |= {"UCHAR": 1, "LONG": 4, "ULONG": 4, "ULONG_LONG": 8}
_NRRD_BYTES = {"char": 1, "short": 2, "int": 4, "longlong": 8, "float": 4, "double": 8}


@dataclass(frozen=True)
class Promise:
    """What a header says of the pixels.

    Attributes:
        shape: Extent along each axis.
        size: Bytes of a pixel.
        packing: "raw", "zlib" or "gzip".
        path: The file that holds the pixels.
        offset: Byte at which they begin.
    """

    shape: tuple[int, ...]
    size: int
    packing: str
    path: Path
    offset: int


def read_itk(path: Path, largest: int = LARGEST) -> Volume:
    """Reads a MetaImage (.mha, or .mhd with its pixels beside it) or NRRD (.nrrd) volume in RAS+ orientation.

    Args:
        path: The file.
        largest: Bytes of pixel data beyond which it is refused.

    Raises:
        ValueError: If it is missing, truncated, damaged, no scalar 3D volume, or holds values that are not finite.
    """
    import SimpleITK as sitk

    try:
        _verify(read_header(path), largest)
        image = sitk.ReadImage(str(path))
        array = sitk.GetArrayFromImage(image)
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename}: the file does not exist") from error
    except (OSError, EOFError, ValueError, KeyError, zlib.error, RuntimeError) as error:
        raise ValueError(f"{path}: the file is damaged or not supported ({error}); restore or convert it") from error
    if array.ndim != 3 or image.GetNumberOfComponentsPerPixel() != 1 or array.dtype.kind not in "iuf":
        raise ValueError(f"{path}: a scalar 3D volume is needed, got shape {array.shape} of {array.dtype}; split it")
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(array.transpose(2, 1, 0).astype(np.float32), affine))
    values = np.ascontiguousarray(turned.get_fdata(dtype=np.float32))
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: some voxels are NaN or infinite; replace them or leave the case out")
    return Volume(values, np.asarray(turned.affine, dtype=np.float64), path)


def pixel_file(path: Path) -> Path | None:
    """Returns the file beside a .mhd that holds its pixels; None for files that hold their own.

    Raises:
        ValueError: If the header is damaged; the message names it.
    """
    if not path.name.lower().endswith(HEADERS):
        return None
    try:
        found = read_header(path).path
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: the file is damaged or not supported ({error}); restore or convert it") from error
    return None if found == path else found


def read_header(path: Path) -> Promise:
    """Reads what the header of a MetaImage or NRRD file promises.

    Raises:
        ValueError: If it is no such header, or of a kind that is not supported.
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_HEADER)
    return _nrrd(path, start) if path.name.lower().endswith(".nrrd") else _meta(path, start)


def _meta(path: Path, start: bytes) -> Promise:
    match = re.search(rb"^ElementDataFile[ \t]*=[ \t]*([^\r\n]+?)[ \t]*\r?\n", start + b"\n", re.MULTILINE)
    if match is None:
        raise ValueError("no MetaImage header")
    pairs = re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", start[: match.end()].decode("latin-1"), re.MULTILINE)
    fields = {key: value for key, value in pairs}
    shape = tuple(int(extent) for extent in fields["DimSize"].split())
    kind = fields["ElementType"].removeprefix("MET_").removesuffix("_ARRAY")
    if kind not in _META_BYTES:
        raise ValueError(f"pixels of type MET_{kind}")
    packing = "zlib" if fields.get("CompressedData", "False").lower() == "true" else "raw"
    size = _META_BYTES[kind] * int(fields.get("ElementNumberOfChannels", "1"))
    if match[1] == b"LOCAL":
        return Promise(shape, size, packing, path, match.end())
    pixels = match[1].decode("latin-1")
    if not path.name.lower().endswith(HEADERS) or Path(pixels).name != pixels or pixels in ("LIST", ".", ".."):
        raise ValueError("the pixels must lie in the same file as the header, those of a .mhd in one file beside it")
    if int(fields.get("HeaderSize", "0")) != 0:
        raise ValueError(f"pixels that begin at byte {fields['HeaderSize']}")
    return Promise(shape, size, packing, path.with_name(pixels), 0)


def _nrrd(path: Path, start: bytes) -> Promise:
    end = re.search(rb"\r?\n\r?\n", start)
    if not start.startswith(b"NRRD000") or end is None:
        raise ValueError("no NRRD header of one file")
    pairs = re.findall(r"^([\w ]+?):\s*(.*?)\s*$", start[: end.start()].decode("latin-1"), re.MULTILINE)
    fields = {key.lower(): value for key, value in pairs}
    if "data file" in fields or "datafile" in fields:
        raise ValueError("the pixels must lie in the same file as the header")
    encoding = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}.get(fields["encoding"].lower())
    if encoding is None:
        raise ValueError(f"encoding {fields['encoding']!r} instead of raw or gzip")
    return Promise(
        tuple(int(extent) for extent in fields["sizes"].split()), _width(fields["type"]), encoding, path, end.end()
    )


def _width(kind: str) -> int:
    """Returns the bytes of a pixel of an NRRD type, such as `uint16` or `unsigned short int`."""
    if match := re.fullmatch(r"u?int(8|16|32|64)(_t)?", kind):
        return int(match[1]) // 8
    plain = re.sub(r"^(unsigned |signed |u)| int$", "", kind).replace(" ", "")
    if plain not in _NRRD_BYTES:
        raise ValueError(f"pixels of type {kind!r}")
    return _NRRD_BYTES[plain]


def _verify(promise: Promise, largest: int) -> None:
    """Compares the promise with the file, unpacking it without keeping it."""
    if len(promise.shape) not in (3, 4) or min(promise.shape) < 1:
        raise ValueError(f"header of shape {promise.shape}")
    needed = math.prod(promise.shape) * promise.size
    if needed > largest:
        raise ValueError(f"header of shape {promise.shape} claims {needed} bytes, more than {largest}")
    held = promise.path.stat().st_size - promise.offset if promise.packing == "raw" else _unpacked(promise, needed)
    if held < needed:
        raise ValueError(f"truncated, {held} of {needed} bytes")
    if held > needed and promise.packing != "raw":  # whose checksum was not reached
        raise ValueError(f"more packed data than the {needed} bytes of the header")


def _unpacked(promise: Promise, needed: int) -> int:
    """Counts the unpacked bytes, stopping soon after there are more than there should be."""
    held = 0
    with promise.path.open("rb") as raw:
        raw.seek(promise.offset)
        if promise.packing == "gzip":
            with gzip.open(raw, "rb") as stream:
                while held <= needed and (part := stream.read(_BLOCK)):
                    held += len(part)
            return held
        unpack = zlib.decompressobj()
        while held <= needed and (block := raw.read(_BLOCK)):
            held += len(unpack.decompress(block, needed + 1))
            if unpack.eof:
                return held
    if held <= needed:
        raise ValueError("the packed pixels end early")
    return held
