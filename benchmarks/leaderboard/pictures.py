"""Pictures of cases: read from folders of results, made small, and chosen so that the page stays small."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from PIL import Image

from benchmarks.case_pictures import FOLDER, INDEX
from benchmarks.standings import Board

LARGEST = 2 * 2**20
"""Bytes of a file at most."""
QUALITY = 60
"""Of WebP, at most 100."""
_PNG = b"\x89PNG\r\n\x1a\n"
_FACTS = ("file", "dataset", "task", "entrant", "case", "place")


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of one case.

    Attributes:
        facts: What `read_pictures` found in the index.
        path: Its file, a PNG.
    """

    facts: Mapping[str, str]
    path: Path

    def encode(self) -> str:
        """Makes a data URL: WebP, or the PNG itself where that is smaller."""
        plain, stream = self.path.read_bytes(), io.BytesIO()
        with Image.open(self.path) as image:
            image.convert("RGB").save(stream, "WEBP", quality=QUALITY, method=4)
        small = stream.getvalue()
        kind, content = ("png", plain) if len(plain) <= len(small) else ("webp", small)
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def read_pictures(folder: Path) -> list[Picture]:
    """Reads the pictures that a folder of results holds: PNG files, and `pictures/index.json`, a list of objects.

    Each object describes one picture: `file` (a name in `pictures/`), `dataset`, `task`, `entrant`, `case`, and
    `place`: "best", "median" or "worst". `suite`, `structure`, `shot` and `caption` (the metric, say) may be given. A
    picture shows the examples with their targets, the query, the answer and the truth, from left to right
    (`mvg.drawing.draw_episodes`).

    Raises:
        ValueError: If an entry is incomplete or its file is no PNG of at most 2 MiB inside the folder.
    """
    index = folder / FOLDER / INDEX
    if not index.is_file():
        return []
    pictures = []
    for entry in json.loads(index.read_text("utf-8")):
        if missing := [name for name in _FACTS if name not in entry]:
            raise ValueError(f"{index}: an entry lacks {', '.join(missing)}; add it or remove the entry")
        file = index.parent / str(entry["file"])
        if file.parent != index.parent or not file.is_file():
            raise ValueError(
                f"{index}: there is no file {entry['file']!r} in {index.parent}; draw it or remove the entry"
            )
        content = file.read_bytes()
        if not content.startswith(_PNG) or len(content) > LARGEST:
            raise ValueError(f"{file} must be a PNG of at most {LARGEST} bytes, got {len(content)}; draw it smaller")
        facts = {str(name): str(value) for name, value in entry.items()}
        pictures.append(Picture(facts, file))
    return pictures


def embed(pictures: Sequence[Picture], boards: Sequence[Board], budget: float) -> dict[Picture, str]:
    """Chooses the pictures that the page holds: those of the first of every board, then of the second, and so on.

    Args:
        pictures: All pictures.
        boards: All boards.
        budget: Most characters of all data URLs together.

    Returns:
        Each picture that is shown, with its data URL. All pictures of an entrant on a board are shown, or none.
    """
    chosen: dict[Picture, str] = {}
    for group in _by_place(pictures, boards):
        made = {picture: picture.encode() for picture in group}
        budget -= sum(map(len, made.values()))
        if budget < 0:
            break
        chosen |= made
    return chosen


def _by_place(pictures: Sequence[Picture], boards: Sequence[Board]) -> Iterator[list[Picture]]:
    """Yields the pictures of each entrant on each data set and task, those of leaders first."""
    places: dict[tuple[str, str, str], int] = {}
    for board in boards:
        if board.primary:
            for number, standing in enumerate(board.standings):
                places[board.dataset, board.task, standing.entrant] = number
    keys = {id(p): (p.facts["dataset"], p.facts["task"], p.facts["entrant"]) for p in pictures}
    ordered = sorted(pictures, key=lambda p: (places.get(keys[id(p)], len(pictures)), keys[id(p)]))
    for _, group in groupby(ordered, lambda p: keys[id(p)]):
        yield list(group)
