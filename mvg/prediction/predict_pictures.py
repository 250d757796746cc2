"""What `mvg predict` does with pictures: in batches, each on the grid of its file."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mvg.files import write_whole
from mvg.prediction.answers import Prediction
from mvg.prediction.outputs import Job, as_json, fingerprint
from mvg.prediction.predictor import Predictor
from mvg.prediction.preview import draw_preview
from mvg.prediction.rasters import Raster, check_writable, encode, limits, read_raster, to_tensor
from mvg.prediction.run_facts import Groups, name_of, show, show_in_turn

log = logging.getLogger(__name__)


def answer_pictures(
    predictor: Predictor, groups: Groups, common: Mapping[str, Any], names: Mapping[int, str], preview: bool
) -> None:
    """Reads the contexts and checks all pictures, then answers them in batches.

    Args:
        predictor: Answers pictures.
        groups: Examples, and the queries that are shown them.
        common: What the answers of one call have in common, for their descriptions.
        names: Class to name, where known.
        preview: Also write a picture of each.

    Raises:
        ValueError: If a context or a picture cannot be used, before the first file is written.
    """
    for chosen, jobs in reversed(groups):
        show(predictor, chosen)
        for job in jobs:
            check_job(predictor, job)
    for jobs, facts in show_in_turn(predictor, groups, common):
        for first in range(0, len(jobs), predictor.batch):
            answer_jobs(predictor, jobs[first : first + predictor.batch], facts, names, preview)


def check_job(predictor: Predictor, job: Job) -> None:
    """Reads a query and checks that it can be answered and its answer be written."""
    raster = read_raster(job.query, size_limit=predictor.size_limit)
    predictor.read(raster)
    if predictor.task.is_label:
        check_writable(job.answer, np.dtype(np.uint16))
        return
    kind = raster.values.dtype if predictor.units is None else predictor.units.kind
    check_writable(job.answer, kind, len(predictor.examples[0].target))


def answer_jobs(
    predictor: Predictor, jobs: Sequence[Job], common: Mapping[str, Any], names: Mapping[int, str], preview: bool
) -> None:
    """Answers one batch of files and writes all that belongs to each; what is not renewed is removed."""
    start = time.perf_counter()
    rasters = [read_raster(job.query, size_limit=predictor.size_limit) for job in jobs]
    answers = predictor.predict(rasters)
    seconds = round((time.perf_counter() - start) / len(jobs), 4)
    for job, raster, answer in zip(jobs, rasters, answers, strict=True):
        facts = {
            **common,
            "specs": [each.spec for each in predictor.passes],
            "query": {"file": job.query.name, "sha256": fingerprint(job.query)},
            "range": list(limits(raster, predictor.window)),
            "units": None if predictor.units is None else predictor.units.describe(),
            "areas": answer.areas,
            "names": {str(k): name_of(k, names) for k in answer.areas},
            "agreement": answer.agreement,
            "boxes": None if answer.boxes is None else answer.boxes.tolist(),
            "scores": None if answer.scores is None else answer.scores.tolist(),
            "seconds": seconds,
        }
        contents = {job.answer: encode(answer.painted, job.answer.suffix), job.sidecar: as_json(facts)}
        if answer.uncertainty is not None:
            contents[job.uncertainty] = encode(flat(answer.uncertainty), job.uncertainty.suffix)
        if preview:
            contents[job.preview] = encode(draw(predictor, raster, answer, names), job.preview.suffix)
        write_whole(contents)
        for path in {job.preview, job.uncertainty} - contents.keys():
            path.unlink(missing_ok=True)


def draw(predictor: Predictor, raster: Raster, answer: Prediction, names: Mapping[int, str]) -> NDArray[np.uint8]:
    """Draws the preview of an answer, `(H, W, 3)`."""
    query = predictor.read(raster)
    if answer.labels is not None:
        target = torch.from_numpy(answer.labels.astype(np.int64))
    else:
        channels = predictor.network.out_channels
        image = read_raster(answer.painted, raster.name, size_limit=predictor.size_limit)
        bounds = limits(raster, predictor.window) if predictor.units is None else predictor.units.limits
        target = to_tensor(image, bounds, channels)
    doubt = None if answer.uncertainty is None else torch.from_numpy(flat(answer.uncertainty))
    known = {k: name_of(k, names) for k in answer.areas}
    name = Path(raster.name).name
    page = draw_preview(query, target, predictor.examples, name, answer.boxes, uncertainty=doubt, classes=known)
    return np.asarray(page)


def flat(uncertainty: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns `(H, W)`: of colours the largest deviation."""
    return uncertainty if uncertainty.ndim == 2 else uncertainty.max(-1)
