"""Pictures of a run: the best, the median and the worst answer to each task of a data set, with the examples shown.

They are made from the records, by asking these few cases again, so that a run that was ended can still be drawn.
`benchmarks.leaderboard` puts them into its page.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks import records
from benchmarks.inputs import Example, Inputs, read_values, workplace
from benchmarks.records import Record
from benchmarks.runner import Block, Run, context_of, show
from benchmarks.suite import name_of
from benchmarks.summary import cell
from mvg.data.preparation import slicing_axis
from mvg.data.readers import Volume
from mvg.drawing import COLOUR, overlay, sheet, to_picture
from mvg.files import write_whole
from mvg.prediction.scans import cut

log = logging.getLogger(__name__)

FOLDER, INDEX = "pictures", "index.json"
PLACES = {"best": 1.0, "median": 0.5, "worst": 0.0}
PRIMARY = ("dice", "psnr", "ap50")
"""Metrics by which cases are chosen, one of each kind of task; higher is better."""
SHOWN = ("suite", "dataset", "task", "entrant", "case", "structure")
"""What a picture says of its record, beside place and value."""
SIZE, PAIRS, GREYS, VEILED = 96, 2, 48, 16
"""Height of a tile in pixels, most examples in a picture, greys of a file, and greys of it under the veil of a mask."""
NARROWEST = 66
"""Width of a tile in pixels that its title needs."""


def draw_cases(work: Run, todo: Sequence[Block]) -> list[Path]:
    """Draws what is not drawn yet: at most three pictures for each task of a data set, in `pictures/`.

    Args:
        work: The run; its records are there.
        todo: What was asked. Of it the most examples are shown, in the first draw.

    Returns:
        The files.
    """
    if not any(work.output.glob("records*.csv")):
        return []
    known = {(block.question.name, block.shot, block.draw): block for block in todo}
    made: list[tuple[dict[str, str], bytes]] = []
    rows = [r for r in records.read(work.output) if r.metric in PRIMARY and r.failure not in ("error", "unanswered")]
    by_task = attrgetter("dataset", "task")
    for (dataset, task), group in groupby(sorted(rows, key=by_task), by_task):
        for place, record in choose(list(group), set(known)).items():
            name = f"{dataset}-{task}-{place}.png"
            facts = {"file": name, "place": place, "caption": _caption(record), "shot": str(record.shot)}
            facts |= {field: str(getattr(record, field)) for field in SHOWN}
            drawn = draw_case(work, known[_name_of(record)], record)
            made += [(facts, drawn)] if drawn else []
    files = {work.output / FOLDER / facts["file"]: drawn for facts, drawn in made}
    index = json.dumps([facts for facts, _ in made], indent=2)
    write_whole({**files, work.output / FOLDER / INDEX: f"{index}\n".encode()})
    log.info("%d pictures in %s", len(files), work.output / FOLDER)
    return list(files)


def choose(rows: Sequence[Record], asked: set[tuple[str, int, int]]) -> dict[str, Record]:
    """Chooses the best, the median and the worst case of those with the most examples, in the first draw.

    Of two answers there is no median; one is the only one.
    """
    rows = [record for record in rows if not record.draw and _name_of(record) in asked]
    most = max((record.shot for record in rows), default=0)
    rows = [record for record in rows if record.shot == most]
    ranked = sorted(rows, key=lambda record: (record.value, record.structure, record.variant, record.case))
    if len(ranked) < 2:
        return {"only": ranked[0]} if ranked else {}
    places = {name: round(place * (len(ranked) - 1)) for name, place in PLACES.items()}
    return {name: ranked[number] for name, number in places.items() if len(ranked) > 2 or name != "median"}


def _name_of(record: Record) -> tuple[str, int, int]:
    """The block that a record is of."""
    return name_of(record.dataset, record.task, record.variant, record.structure), record.shot, record.draw


def _caption(record: Record) -> str:
    words = (record.variant, f"{record.metric} {cell(record.value)}", record.unit)
    return " ".join(word for word in words if word)


def draw_case(work: Run, block: Block, record: Record) -> bytes | None:
    """Asks one case again and draws it; None if the entrant fails."""
    with workplace() as folder:
        inputs = Inputs(work.suite, block.question, folder)
        case = next(case for case in block.cases if case.case == record.case)
        shown = show(work.suite, work.entrant, block, inputs)
        if shown is None or shown[1]:
            return None
        examples = context_of(work.suite, block, inputs, work.entrant.control)[1] if block.shot else []
        asked = inputs.make(case)
        try:
            answer = work.entrant(asked.shown)
        except Exception as error:
            log.warning("%s fails on case %s (%s)", work.entrant.name, record.case, error)
            return None
        return None if answer is None or answer.shape != asked.truth.shape else draw(block, examples, asked, answer)


def draw(block: Block, examples: Sequence[Example], asked: Example, answer: NDArray[Any]) -> bytes:
    """Draws examples with their targets, the query, the answer and the truth, as a small PNG.

    Volumes are shown by one slice: that with the most of the structure, or the middle of what is not air.
    """
    is_label = block.question.label is not None
    row, titles = [], []
    for example in examples[:PAIRS]:
        image, target = _upright(block, example, read_values(example.target), None)
        row += [_wide(to_picture(image, SIZE)), _painted(image, target, is_label)]
        titles += ["example", "its target"]
    truth = asked.truth.mask if is_label else asked.truth.image
    assert truth is not None
    image, true = _upright(block, asked, np.asarray(truth, np.float32), None)
    _, found = _upright(block, asked, np.asarray(answer, np.float32), np.asarray(truth, np.float32))
    row += [_wide(to_picture(image, SIZE)), _painted(image, found, is_label), _painted(image, true, is_label)]
    page = sheet([row], [*titles, "query", "answer", "truth"], [block.question.structure or block.question.variant])
    stream = io.BytesIO()
    page.quantize(palette=palette(), dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _painted(image: torch.Tensor, target: torch.Tensor, is_label: bool) -> NDArray[Any]:
    return _wide(overlay(image, (target > 0).float(), SIZE) if is_label else to_picture(target, SIZE))


def _wide(tile: NDArray[Any]) -> NDArray[Any]:
    """Puts a narrow tile `(H, W, 3)` into the middle of one that its title fits above."""
    lacking = max(0, NARROWEST - tile.shape[1])
    return np.pad(tile, ((0, 0), (lacking // 2, lacking - lacking // 2), (0, 0)))


def palette() -> Image.Image:
    """Makes the colours of a picture: fixed, as few pixels of a small structure would not get one of their own."""
    greys, veiled = (np.linspace(0, 255, number)[:, None] * np.ones(3) for number in (GREYS, VEILED))
    colours = np.concatenate([greys, (veiled + COLOUR) / 2]).round().astype(np.uint8)
    image = Image.new("P", (1, 1))
    image.putpalette(colours.tobytes())
    return image


def _upright(
    block: Block, example: Example, target: NDArray[Any], chosen_by: NDArray[Any] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns image and target as `(1, H, W)`; of volumes the slice with the most of `chosen_by`, or of the target."""
    image = np.asarray(read_values(example.image), np.float32)
    target = np.asarray(target, np.float32)
    if example.affine is None:
        return torch.from_numpy(image)[None], torch.from_numpy(target)[None]
    axis = slicing_axis(Volume(image, example.affine, example.image), block.question.slices)
    assert axis is not None
    amount = (cut(target if chosen_by is None else chosen_by, axis) > 0.01).sum((1, 2))
    middle = int(np.average(np.arange(len(amount)), weights=amount + 1e-9))
    best = int(amount.argmax()) if block.question.label is not None else middle
    image, target = (cut(values, axis)[best].copy() for values in (image, target))
    return torch.from_numpy(image)[None], torch.from_numpy(target)[None]
