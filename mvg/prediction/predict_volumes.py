"""What `mvg predict` does with volumes: one at a time, each on the grid of its file."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mvg.data.dicom import find_series
from mvg.data.intensity import normalise
from mvg.data.preparation import AXES
from mvg.files import write_whole
from mvg.prediction.dicom_output import check_series, encode_derived, encode_segmentation
from mvg.prediction.outputs import Job, as_json, fingerprint
from mvg.prediction.preview import draw_slices
from mvg.prediction.rasters import encode
from mvg.prediction.run_facts import Groups, name_of, show, show_in_turn
from mvg.prediction.scale_predictor import ScalePredictor
from mvg.prediction.scans import SCANS, Scan, cut, encode_volume, is_slice, read_scan
from mvg.prediction.volume_answers import VolumePrediction
from mvg.prediction.volume_predictor import VolumePredictor

log = logging.getLogger(__name__)


def answer_volumes(
    predictor: VolumePredictor | ScalePredictor,
    groups: Groups,
    common: Mapping[str, Any],
    names: Mapping[int, str],
    preview: bool,
) -> None:
    """Reads the contexts and checks all volumes, then answers one after the other.

    Args:
        predictor: Answers volumes.
        groups: Examples, and the queries that are shown them.
        common: What the answers of one call have in common, for their descriptions.
        names: Class to name, where known.
        preview: Also write a picture of each.

    Raises:
        ValueError: If a context or a volume cannot be used, before the first file is written.
    """
    is_label = (predictor.predictor if isinstance(predictor, VolumePredictor) else predictor).task.is_label
    for chosen, jobs in reversed(groups):
        for job in jobs:
            check_volume(job, is_label)
        show(predictor, chosen)
    for jobs, facts in show_in_turn(predictor, groups, common):
        for job in jobs:
            answer_volume(predictor, job, facts, names, preview)


def answer_volume(
    predictor: VolumePredictor | ScalePredictor,
    job: Job,
    common: Mapping[str, Any],
    names: Mapping[int, str],
    preview: bool,
) -> None:
    """Answers one volume and writes all that belongs to it; what is not renewed is removed."""
    start = time.perf_counter()
    scan = read_scan(job.query)
    answer = predictor(scan)
    query = fingerprint(job.query)
    facts = {
        **common,
        **predictor.describe(),
        "query": {"file": job.name, "sha256": query},
        "range": list(answer.limits),
        "slices": next(name for name, axis in AXES.items() if axis == answer.axis),
        "classes": describe_classes(answer, names),
        "agreement": answer.agreement,
        "seconds": round(time.perf_counter() - start, 4),
    }
    contents = {**encode_answer(answer, scan, job, facts, names), job.sidecar: as_json(facts)}
    if answer.uncertainty is not None:
        contents[job.uncertainty] = encode_volume(answer.uncertainty, scan, job.uncertainty.name)
    if preview:
        contents[job.preview] = encode(draw(scan, answer, names), job.preview.suffix)
    write_whole(contents)
    for path in {job.preview, job.uncertainty} - contents.keys():
        path.unlink(missing_ok=True)
    log.info("%s answered in %.1f s", job.name, time.perf_counter() - start)


def encode_answer(
    answer: VolumePrediction, scan: Scan, job: Job, facts: Mapping[str, Any], names: Mapping[int, str]
) -> dict[Path, bytes]:
    """Returns the files of an answer: a volume, a DICOM segmentation, or the slices of a derived DICOM series."""
    if job.answer.name.lower().endswith(SCANS):
        return {job.answer: encode_volume(answer.painted, scan, job.answer.name)}
    (series,) = find_series(job.query)
    log.info("%s is DICOM and names the patient as its source does, as the standard asks", job.answer)
    mark = f"{facts['weights']['sha256']} {facts['query']['sha256']} {facts['context']} {facts['specs']}"
    if answer.labels is not None:
        known = {k: name_of(k, names) for k in answer.voxels}
        return {job.answer: encode_segmentation(answer.labels, series, known, mark)}
    pages = encode_derived(answer.painted, series, f"{facts['task']['class_path']} by mvg {facts['version']}", mark)
    return {job.answer / f"{number:05}.dcm": page for number, page in enumerate(pages, start=1)}


def check_volume(job: Job, is_label: bool) -> Scan:
    """Reads a query, so that a damaged one stops the command before anything is written, and checks its answer's name.

    Raises:
        ValueError: If it cannot be read, or the answer is not named as a volume.
    """
    name = job.answer.name.lower()
    if is_slice(job.query) and (name.endswith(".dcm") if is_label else not job.answer.suffix):
        check_series(find_series(job.query)[0])
        if is_label and find_spec("highdicom") is None:
            raise ValueError(
                f"{job.answer}: DICOM segmentations need highdicom; `pip install 'mvg-generalist[dicom]'`, or use "
                "--format nii.gz"
            )
    elif not name.endswith(SCANS):
        raise ValueError(f"{job.answer}: the answer to {job.name} is one of {', '.join(SCANS)}; name it so")
    return read_scan(job.query)


def describe_classes(answer: VolumePrediction, names: Mapping[int, str]) -> dict[str, dict[str, Any]]:
    """Describes what was found of each class: its name, voxels and volume."""
    return {
        str(k): {"name": name_of(k, names), "voxels": count, "volume_mm3": answer.volumes[k]}
        for k, count in answer.voxels.items()
    }


def draw(scan: Scan, answer: VolumePrediction, names: Mapping[int, str]) -> NDArray[np.uint8]:
    """Draws the preview of an answer, `(H, W, 3)`."""
    images = torch.from_numpy(normalise(cut(scan.volume.values, answer.axis), answer.limits))
    if answer.labels is None:
        bounds = answer.limits if answer.units is None else answer.units.limits
        painted = torch.from_numpy(normalise(answer.slices.astype(np.float32), bounds))
    else:
        painted = torch.from_numpy(answer.slices.astype(np.int64))
    column, row = (axis for axis in range(3) if axis != answer.axis)
    pixel = scan.volume.spacing[row], scan.volume.spacing[column]
    doubt = None if answer.doubts is None else torch.from_numpy(np.ascontiguousarray(answer.doubts))
    known = {k: name_of(k, names) for k in answer.voxels}
    name = scan.volume.path.name
    return np.asarray(draw_slices(images, painted, pixel, name, uncertainty=doubt, classes=known))
