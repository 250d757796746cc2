"""What `mvg predict` does with volumes: one at a time, each on the grid of its file."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mvg.context import PairFiles
from mvg.data.intensity import normalise
from mvg.data.itk import FORMATS
from mvg.data.preparation import AXES
from mvg.data.readers import VOLUMES, is_volume
from mvg.outputs import Job, as_json, fingerprint, write_whole
from mvg.preview import draw_slices
from mvg.rasters import encode
from mvg.scale_predictor import ScalePredictor
from mvg.scans import Scan, cut, encode_volume, is_slice, read_scan
from mvg.volume_predictor import VolumePrediction, VolumePredictor

log = logging.getLogger(__name__)


def answer_volumes(
    predictor: VolumePredictor | ScalePredictor,
    jobs: Sequence[Job],
    chosen: Sequence[PairFiles],
    common: Mapping[str, Any],
    names: Mapping[int, str],
    preview: bool,
) -> None:
    """Reads the context, checks all volumes, then answers one after the other.

    Args:
        predictor: Answers volumes.
        jobs: What to answer.
        chosen: The pairs of the context.
        common: What the answers of one call have in common, for their descriptions.
        names: Class to name, where known.
        preview: Also write a picture of each.

    Raises:
        ValueError: If the context or a volume cannot be used, before the first file is written.
    """
    for job in jobs:
        check_volume(job)
    predictor.set_context([pair.image for pair in chosen], [pair.target for pair in chosen])
    for job in jobs:
        start = time.perf_counter()
        scan = read_scan(job.query)
        answer = predictor(scan)
        facts = {
            **common,
            **predictor.describe(),
            "query": {"file": job.name, "sha256": fingerprint(job.query)},
            "range": list(answer.limits),
            "slices": next(name for name, axis in AXES.items() if axis == answer.axis),
            "classes": describe_classes(answer, names),
            "seconds": round(time.perf_counter() - start, 4),
        }
        values = answer.image if answer.labels is None else answer.labels
        assert values is not None
        contents = {job.answer: encode_volume(values, scan, job.answer.name), job.sidecar: as_json(facts)}
        if preview:
            contents[job.preview] = encode(draw(scan, answer), job.preview.suffix)
        write_whole(contents)
        if not preview:
            job.preview.unlink(missing_ok=True)
        log.info("%s answered in %.1f s", job.name, time.perf_counter() - start)


def check_volume(job: Job) -> None:
    """Reads a query, so that a damaged one stops the command before anything is written, and checks its answer's name.

    Raises:
        ValueError: If it cannot be read, or the answer is not named as a volume.
    """
    kinds = VOLUMES if is_volume(job.query) or is_slice(job.query) else FORMATS
    if not job.answer.name.lower().endswith(kinds):
        raise ValueError(f"{job.answer}: the answer to {job.name} is one of {', '.join(kinds)}; name it so")
    read_scan(job.query)


def describe_classes(answer: VolumePrediction, names: Mapping[int, str]) -> dict[str, dict[str, Any]]:
    """Describes what was found of each class: its name, voxels and volume."""
    return {
        str(k): {"name": names.get(k, f"class {k}"), "voxels": count, "volume_mm3": answer.volumes[k]}
        for k, count in answer.voxels.items()
    }


def draw(scan: Scan, answer: VolumePrediction) -> NDArray[np.uint8]:
    """Draws the preview of an answer, `(H, W, 3)`."""
    images = torch.from_numpy(normalise(cut(scan.volume.values, answer.axis), answer.limits))
    if answer.labels is None:
        painted = torch.from_numpy(normalise(answer.slices.astype(np.float32), answer.limits))
    else:
        painted = torch.from_numpy(answer.slices.astype(np.int64))
    column, row = (axis for axis in range(3) if axis != answer.axis)
    pixel = scan.volume.spacing[row], scan.volume.spacing[column]
    return np.asarray(draw_slices(images, painted, pixel, scan.volume.path.name))
