"""Where answers go: names, what must not be replaced, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvg.data.dicom import find_series, fingerprint_series
from mvg.data.readers import case_name
from mvg.rasters import WRITABLE, images_in
from mvg.scans import is_scan, is_slice


@dataclass(frozen=True)
class Job:
    """One query and the files that its answer becomes.

    Attributes:
        query: The image.
        answer: The painted image, or its class indices.
        sidecar: What is known of the answer, JSON.
        preview: The picture to look at, PNG.
    """

    query: Path
    answer: Path
    sidecar: Path
    preview: Path

    @property
    def name(self) -> str:
        """Name of the query in descriptions; that of a DICOM series says nothing of the patient."""
        return find_series(self.query)[0].name if is_slice(self.query) else self.query.name


def find_jobs(source: Path, output: Path, is_label: bool, overwrite: bool) -> list[Job]:
    """Lists queries and the files that they become; nothing is written.

    Args:
        source: An image or a volume, or a folder of either.
        output: A file (for one image, if the name has an extension), or a folder.
        is_label: Answers are class indices, PNG unless the query is NPY or a volume.
        overwrite: Whether outputs may exist.

    Raises:
        ValueError: If there is no query, or an output exists, or would replace a query.
    """
    if not source.exists():
        raise ValueError(f"{source}: there is no such image or folder; name the image to be answered")
    queries = list(images_in(source).values()) if source.is_dir() else [source]
    one = source.is_file() or (len(queries) == 1 and is_slice(queries[0]))
    single = one and bool(output.suffix) and not output.is_dir()
    if output.is_file() and not single:
        raise ValueError(f"{output}: this is a file, but the answers to a folder need a folder; name another output")
    answers = [output] if single else [output / answer_name(query, is_label) for query in queries]
    jobs = [_job(query, answer) for query, answer in zip(queries, answers, strict=True)]
    read = {query.resolve() for query in queries}
    for job in jobs:
        for path in (job.answer, job.sidecar, job.preview):
            if path.resolve() in read:
                raise ValueError(f"{path}: the answer would replace a query; name another output")
            if path.exists() and not overwrite:
                raise ValueError(f"{path}: the file exists; name another output, or replace it with --overwrite")
    return jobs


def answer_name(query: Path, is_label: bool) -> str:
    """Names the file of an answer.

    Volumes keep their kind, and DICOM series become NIfTI; TIFF and NPY keep theirs where images are painted, and label
    maps keep NPY.
    """
    if is_slice(query):
        return f"{find_series(query)[0].name}.nii.gz"
    if is_scan(query):
        return query.name
    suffix = query.suffix.lower()
    keeps = suffix == ".npy" if is_label else suffix in WRITABLE
    return f"{case_name(query)}{query.suffix if keeps else '.png'}"


def _job(query: Path, answer: Path) -> Job:
    name = case_name(answer)
    return Job(query, answer, answer.with_name(f"{name}.json"), answer.with_name(f"{name}.preview.png"))


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's content, or of all slices of a DICOM series, hexadecimal."""
    if is_slice(path):
        return fingerprint_series(find_series(path)[0])
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def as_json(facts: Mapping[str, Any]) -> bytes:
    """Returns the content of a JSON file."""
    return (json.dumps(facts, indent=2) + "\n").encode()


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
