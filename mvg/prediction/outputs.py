"""Where answers go: names, what must not be replaced, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mvg.data.dicom import find_series, fingerprint_series
from mvg.data.readers import case_name, is_volume
from mvg.files import check_folder
from mvg.prediction.rasters import WRITABLE, images_in
from mvg.prediction.scans import SCANS, is_scan, is_slice

log = logging.getLogger(__name__)

_VOLUME_FORMS = tuple(kind[1:] for kind in SCANS)
_PICTURE_FORMS = tuple(kind[1:] for kind in WRITABLE)
BESIDE = (".preview", ".uncertainty")
"""What the names of files beside an answer end in, extension aside."""


@dataclass(frozen=True)
class Job:
    """One query and the files that its answer becomes.

    Attributes:
        query: The image.
        answer: The painted image, or its class indices.
        sidecar: What is known of the answer, JSON.
        preview: The picture to look at, PNG.
        uncertainty: The map of uncertainty on the grid of the answer.
    """

    query: Path
    answer: Path
    sidecar: Path
    preview: Path
    uncertainty: Path

    @property
    def name(self) -> str:
        """Name of the query in descriptions; that of a DICOM series says nothing of the patient."""
        return find_series(self.query)[0].name if is_slice(self.query) else self.query.name


def find_jobs(source: Path, output: Path, is_label: bool, overwrite: bool, form: str = "auto") -> list[Job]:
    """Lists queries and the files that they become; nothing is written.

    Args:
        source: An image or a volume, or a folder of either.
        output: A file (for one image, if the name has an extension), or a folder.
        is_label: Answers are class indices, PNG unless the query is NPY or a volume.
        overwrite: Whether outputs may exist.
        form: Kind of file of the answers, such as "nii.gz"; "auto" follows the queries.

    Raises:
        ValueError: If there is no query, or an output exists, would replace a query, or could not be written.
    """
    if not source.exists():
        raise ValueError(f"{source}: there is no such image or folder; name the image to be answered")
    queries = list(images_in(source).values()) if source.is_dir() else [source]
    one = source.is_file() or (len(queries) == 1 and is_slice(queries[0]))
    single = one and bool(output.suffix) and not output.is_dir()
    if output.is_file() and not single:
        raise ValueError(f"{output}: this is a file, but the answers to a folder need a folder; name another output")
    answers = [output] if single else [output / answer_name(query, is_label, form) for query in queries]
    check_folder(output.parent if single else output)
    jobs = [_job(query, answer) for query, answer in zip(queries, answers, strict=True)]
    read = {query.resolve() for query in queries}
    for job in jobs:
        for path in (job.answer, job.sidecar, job.preview, job.uncertainty):
            if path.resolve() in read:
                raise ValueError(f"{path}: the answer would replace a query; name another output")
            if path.exists() and not overwrite:
                raise ValueError(f"{path}: the file exists; name another output, or replace it with --overwrite")
    return jobs


def answer_name(query: Path, is_label: bool, form: str = "auto") -> str:
    """Names the file of an answer.

    Volumes keep their kind. DICOM series become DICOM: label maps a segmentation if what writes it is installed, else
    NIfTI, and images a folder of slices. TIFF and NPY keep their kind where images are painted; label maps keep NPY.

    Raises:
        ValueError: If a kind of file is asked for that cannot hold the answer.
    """
    series = is_slice(query)
    kinds = (*_VOLUME_FORMS, "dcm") if series else _VOLUME_FORMS if is_scan(query) else _PICTURE_FORMS
    if form not in ("auto", *kinds):
        raise ValueError(f"{query}: its answer is written as {', '.join(kinds)}, not {form!r}; choose one of these")
    name = find_series(query)[0].name if series else case_name(query)
    if series:
        form = default_form(is_label) if form == "auto" else form
        return name if form == "dcm" and not is_label else f"{name}.{form}"
    if form != "auto":
        return f"{query.stem if is_scan(query) and not is_volume(query) else name}.{form}"
    if is_scan(query):
        return query.name
    suffix = query.suffix.lower()
    keeps = suffix == ".npy" if is_label else suffix in WRITABLE
    return f"{name}{query.suffix if keeps else '.png'}"


def default_form(is_label: bool) -> str:
    """Kind of file of the answer to a DICOM series: "dcm", or "nii.gz" where segmentations cannot be written."""
    if not is_label or find_spec("highdicom") is not None:
        return "dcm"
    log.info("Answers are NIfTI; `pip install 'mvg-generalist[dicom]'` lets them be DICOM segmentations")
    return "nii.gz"


def _job(query: Path, answer: Path) -> Job:
    name = case_name(answer)
    suffix = next((kind for kind in SCANS if answer.name.lower().endswith(kind)), None)
    doubt = suffix or (".nii.gz" if is_scan(query) else ".tif")
    preview, uncertainty = BESIDE
    beside = [answer.with_name(name + end) for end in (".json", f"{preview}.png", f"{uncertainty}{doubt}")]
    return Job(query, answer, *beside)


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's content, or of all slices of a DICOM series, hexadecimal."""
    if is_slice(path):
        return fingerprint_series(find_series(path)[0])
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def as_json(facts: Mapping[str, Any]) -> bytes:
    """Returns the content of a JSON file."""
    return (json.dumps(facts, indent=2) + "\n").encode()
