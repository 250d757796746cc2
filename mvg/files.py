"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO


def check_folder(folder: Path) -> None:
    """Checks, before any work, that files can be written into a folder, which need not exist yet.

    Raises:
        ValueError: If a file is in its place or above it, or the user may not write there.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise ValueError(f"{folder}: {nearest} is a file, so no folder can be there; name another output")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"{folder}: you may not write into {nearest}; name another output, or change its permissions")


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that, whatever happens, either the old or the whole new content is found.

    Args:
        path: The file; its folder is made.
        write: Writes the content to an open binary file.

    Raises:
        OSError: If the disk is full or the folder not writable; nothing is left behind.
    """
    work = _write_beside(path, write)
    try:
        os.replace(work, path)
    finally:
        work.unlink(missing_ok=True)


def write_whole(contents: Mapping[Path, bytes]) -> None:
    """Writes files that belong together: all under temporary names first, then each is moved into place."""
    works: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            works[path] = _write_beside(path, partial(_fill, content))
        for path, work in works.items():
            os.replace(work, path)
    finally:
        for work in works.values():
            work.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields a folder to write into, which takes the place of `folder` if the block ends well, else disappears."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield work
        os.chmod(work, 0o755)
        _replace(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fill(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _write_beside(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """Writes a new file beside a path, as readable to others as any new file of the user; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with work.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        work.unlink(missing_ok=True)
        raise
    return work


def _replace(work: Path, folder: Path) -> None:
    """Moves a finished folder into place; an older one is kept until the new one stands."""
    if not folder.exists():
        work.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent)) / folder.name
    folder.rename(old)
    try:
        work.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)
