"""Prepared arrays on disk: written once under a temporary name and moved, read in parts."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvg.files import write_atomically

Stored = NDArray[np.unsignedinteger[Any]]


def default_folder() -> Path:
    """Returns the folder for prepared data: `MVG_CACHE`, or `mvg` in the user's cache folder of the platform."""
    if named := os.environ.get("MVG_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "mvg" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mvg"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mvg"


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pauses the collector of reference cycles while many objects are made that all stay; it would look at them."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def digest(*values: Any) -> str:
    """Returns 16 hexadecimal digits that stand for plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def stamp(paths: Sequence[Path]) -> str:
    """Returns a digest of name, size and time of change of files; it changes when one of them is written again.

    Raises:
        ValueError: If a file cannot be looked at.
    """
    try:
        found = [(path.name, seen.st_size, seen.st_mtime_ns) for path in paths for seen in (os.stat(path),)]
    except OSError as error:
        raise ValueError(f"{error.filename}: the file cannot be read ({error.strerror})") from error
    return digest(found)


def write_array(path: Path, values: Stored) -> None:
    """Writes an array as `.npy` in C order, atomically."""
    write_atomically(path, lambda file: np.save(file, np.ascontiguousarray(values), allow_pickle=False))


def write_json(path: Path, values: Any) -> None:
    """Writes plain values as JSON, atomically."""
    write_atomically(path, lambda file: file.write(json.dumps(values).encode()))


def read_json(path: Path) -> Any:
    """Reads JSON; None if the file is missing or unreadable, as a cache can be made again."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def read_part(path: Path, number: int, shape: Sequence[int]) -> Stored:
    """Reads part `number` of a stored array of a known shape, unmapped: a mapped file that is cut kills its reader.

    Raises:
        ValueError: If the file is missing or damaged.
    """
    kind, found, start = _layout(path)
    try:
        with path.open("rb") as file:
            size = math.prod(shape[1:]) * kind.itemsize
            whole = os.fstat(file.fileno()).st_size == start + shape[0] * size
            file.seek(start + number * size)
            content = file.read(size)
    except OSError as error:
        raise ValueError(f"{path}: the prepared data cannot be read ({error}); delete its folder") from error
    if found != tuple(shape) or not whole:
        raise ValueError(f"{path}: the prepared data is damaged, it is not of shape {tuple(shape)}; delete its folder")
    return np.frombuffer(content, kind).reshape(found[1:])


@lru_cache(maxsize=1 << 16)
def _layout(path: Path) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Returns type, shape and first byte of a stored array."""
    try:
        with path.open("rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("not written by mvg")
            shape, fortran, kind = np.lib.format.read_array_header_1_0(file)
            if fortran or kind.kind not in "ui" or not shape:
                raise ValueError(f"an array of {kind} and shape {shape}")
            return kind, shape, file.tell()
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path}: the prepared data is missing or damaged ({error}); delete its folder") from error
