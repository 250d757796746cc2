"""Files in remote stores: fetched once into the cache, under the hash that the manifest states for them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from mvg.data.location import ARCHIVE, Location
from mvg.files import write_atomically

_URL = re.compile(r"[a-z][a-z0-9+.-]*://.+", re.IGNORECASE | re.DOTALL)
_HASH = re.compile(r"[0-9a-f]{64}")
_BLOCK = 1 << 20


def is_remote(text: str) -> bool:
    """Tells whether a path is the address of a file in a store, such as `s3://bucket/brain.nii.gz`."""
    return _URL.fullmatch(text) is not None


def locate(text: str, sha256: str, folder: Path) -> Location:
    """Returns where a remote file will lie once it is fetched; nothing is fetched.

    Args:
        text: Its address, with `#` and a channel for one volume of a 4D NIfTI file.
        sha256: Hash of its content; the file lies in a folder of this name.
        folder: Folder of fetched files.

    Raises:
        ValueError: If there is no hash, or the address names no file, an archive, or a chain of stores.
    """
    if not _HASH.fullmatch(sha256):
        raise ValueError(f"{text}: a remote file needs its sha256 in the manifest, got {sha256!r}; write it there")
    plain = Location.parse(text, Path())
    url = text.removesuffix(f"#{plain.part}") if plain.part else text
    name = PurePosixPath(urlsplit(url).path).name or urlsplit(url).netloc
    if "::" in url or name in ("", ".", ".."):
        raise ValueError(f"{text}: this is no address of a file in one store; write it as store://folder/file")
    if name.lower().endswith(ARCHIVE):
        raise ValueError(f"{text}: archives are not read from remote stores; fetch it, and name the local file")
    return Location(folder / sha256 / name, plain.part, url)


def fetch(locations: Iterable[tuple[Location, str]]) -> None:
    """Fetches remote files that are not there yet; each appears whole and verified, or not at all.

    Args:
        locations: Remote files and their hashes.

    Raises:
        ValueError: If a file cannot be fetched, or its content is not what the hash says; the message names it.
    """
    for location, sha256 in dict(locations).items():
        if location.path.is_file():
            continue
        write_atomically(location.path, lambda file, at=location.url, sha=sha256: _copy(at, sha, file))  # type: ignore[misc]
        os.utime(location.path, (0, 0))  # the name says what it holds: fetched again, it is the same file


def _copy(url: str, sha256: str, file: BinaryIO) -> None:
    """Copies a remote file and compares its hash."""
    found = hashlib.sha256()
    try:
        with _fsspec(url).open(url, "rb") as remote:
            while block := remote.read(_BLOCK):
                found.update(block)
                file.write(block)
    except ImportError as error:
        raise ValueError(
            f"{url}: this kind of store needs a package ({error}); pip install 'mvg-generalist[remote]'"
        ) from error
    except FileNotFoundError as error:
        raise ValueError(f"{url}: the file does not exist in its store; correct the manifest") from error
    except Exception as error:  # every store has errors of its own
        raise ValueError(f"{url}: the file cannot be fetched ({type(error).__name__}: {error}); try again") from error
    if found.hexdigest() != sha256:
        raise ValueError(f"{url}: the file is not the one that the manifest was written for; write the manifest again")


def _fsspec(url: str) -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise ValueError(f"{url}: remote files need fsspec; pip install 'mvg-generalist[remote]'") from error
    return fsspec
