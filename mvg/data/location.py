"""Where an image lies: a file, a channel of a volume, or an entry of an archive of arrays."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from mvg.data.archive import read_entry
from mvg.data.itk import FORMATS, HEADERS, pixel_file, read_itk
from mvg.data.readers import PICTURES, VOLUMES, Picture, Volume, read_picture, read_volume

ARCHIVE = ".npz"
IMAGES = (*VOLUMES, *FORMATS, *HEADERS, *PICTURES)
READABLE = (*IMAGES, ARCHIVE)
_PART = re.compile(r"(?P<path>.*\.(?:nii\.gz|nii|npz))#(?P<part>\d+|\w+/\d+)", re.IGNORECASE | re.DOTALL)
_BLOCK = 1 << 20


@dataclass(frozen=True, order=True, slots=True)
class Location:
    """A place that holds one image.

    In text it is the path, and for a part of a file the path, `#` and the part: `brain.nii.gz#2` is the third volume
    of a 4D file, `breast.npz#train_images/17` the entry 17 of the array `train_images`.

    Attributes:
        path: The file.
        part: Channel of a NIfTI file, or array and number of an entry of an NPZ archive; empty for a whole file.
        url: Where the file is fetched from; empty for local files.
    """

    path: Path
    part: str = ""
    url: str = ""

    @classmethod
    def parse(cls, text: str, folder: Path) -> Location:
        """Reads the notation; a path that is not absolute is taken from `folder`."""
        match = _PART.fullmatch(text) if "#" in text else None
        return cls(folder / match["path"], match["part"]) if match else cls(folder / text)

    def text(self, folder: Path) -> str:
        """Writes the notation, relative to `folder` if the file lies below it; of a remote file its address."""
        if self.url:
            return str(self)
        path = self.path.absolute()
        base = folder.absolute()
        shown = path.relative_to(base) if path.is_relative_to(base) else path
        return f"{shown.as_posix()}#{self.part}" if self.part else shown.as_posix()

    @property
    def name(self) -> str:
        """Name of the file, and the part of it."""
        return f"{self.path.name}#{self.part}" if self.part else self.path.name

    @property
    def is_entry(self) -> bool:
        """Whether this is an entry of an archive."""
        return self.path.name.lower().endswith(ARCHIVE)

    def __str__(self) -> str:
        place = self.url or str(self.path)
        return f"{place}#{self.part}" if self.part else place


def readable(paths: Iterable[Path]) -> list[Path]:
    """Returns the image files among paths, sorted; hidden files, such as `._a.nii.gz`, are left out."""
    return sorted(path for path in paths if path.name[0] != "." and path.name.lower().endswith(IMAGES))


def read_grid(location: Location, labels: bool = False) -> Volume | Picture:
    """Reads an image after verification, whatever holds it.

    Args:
        location: Where it is.
        labels: Keep stored indices; otherwise colours are turned into luminance.

    Raises:
        ValueError: If it is missing, damaged or of a kind that is not read; the message names the file.
    """
    name, part = location.path.name.lower(), location.part
    if location.is_entry:
        return read_entry(location.path, part, labels)
    if name.endswith(VOLUMES):
        return read_volume(location.path, int(part) if part else None)
    if name.endswith((*FORMATS, *HEADERS)):
        return read_itk(location.path)
    if name.endswith(PICTURES):
        return read_picture(location.path, labels)
    raise ValueError(f"{location}: this kind of file is not read; convert it to one of {', '.join(READABLE)}")


def fingerprint(location: Location) -> str:
    """Returns the SHA-256 of a file, or of the pixels of an entry of an archive, so that equal images can be found.

    Of a header whose pixels lie in another file, the hash is that of both hashes.

    Raises:
        ValueError: If the file cannot be read.
    """
    if location.is_entry:
        values = np.ascontiguousarray(read_entry(location.path, location.part).values)
        return hashlib.sha256(f"{values.shape}".encode() + values.tobytes()).hexdigest()
    beside = pixel_file(location.path)
    if beside is not None:
        return hashlib.sha256("".join(map(_hash_of, (location.path, beside))).encode()).hexdigest()
    return _hash_of(location.path)


def _hash_of(path: Path) -> str:
    try:
        status = path.stat()
        return _file_hash(path, status.st_size, status.st_mtime_ns)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: the file does not exist") from error
    except OSError as error:
        raise ValueError(f"{path}: the file cannot be read ({error.strerror})") from error


@lru_cache(maxsize=1024)
def _file_hash(path: Path, size: int, changed: int) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()
