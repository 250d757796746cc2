"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def write_whole(contents: Mapping[Path, bytes]) -> None:
    """Writes files that belong together: all under temporary names first, then each is moved into place."""
    works = {path: path.with_name(f".{path.name}.part") for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            works[path].write_bytes(content)
        for path, work in works.items():
            os.replace(work, path)
    finally:
        for work in works.values():
            work.unlink(missing_ok=True)
