"""Raw data sets of nnU-Net, versions 1 and 2."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvg.data.importers.dataset import (
    Choice,
    Dataset,
    case_rows,
    complain,
    entry,
    numbered,
    read_description,
    role_names,
)
from mvg.data.location import Location, readable
from mvg.data.manifest import Row
from mvg.data.readers import PICTURES

_CHANNEL = re.compile(r"(.+)_(\d{4})")
IGNORE = "ignore"


def read_nnunet(root: Path, choice: Choice) -> Dataset:
    """Reads `dataset.json`, `imagesTr`, `labelsTr` and, where they are, `imagesTs` and `labelsTs`.

    Files are named CASE_0000, CASE_0001, ..., one for each channel. The images of `imagesTs` are the test split.

    Args:
        root: Folder `DatasetXXX_Name` or `TaskXXX_Name`.
        choice: Not used.

    Raises:
        ValueError: If description and files disagree.
    """
    path = root / "dataset.json"
    description = read_description(path)
    channels = numbered(description.get("channel_names") or entry(description, "modality", path), path)
    names = class_names(entry(description, "labels", path), path)
    ending = str(description.get("file_ending", ".nii.gz"))
    listed = description.get("dataset")
    training = _found(root, "Tr", ending) if listed is None else _listed(root, listed)
    testing = _found(root, "Ts", ending) if (root / "imagesTs").is_dir() else {}
    _check_count(root, description, training)
    rows = _rows(root, training, channels, "") + _rows(root, testing, channels, "test")
    remarks = []
    if IGNORE in names.values():
        remarks.append("the class 'ignore' is kept as a class of its own; leave it out of the classes of tasks")
    licence = str(description.get("licence") or description.get("license") or "")
    return Dataset(rows, {"labels": names}, licence, remarks)


def class_names(labels: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Returns class index to name, without the background.

    Version 1 maps index to name, version 2 name to index or, for regions, to indices. An index of several regions is
    named after the smallest of them.

    >>> class_names({"background": 0, "tumor": [1, 2], "core": 2}, Path("dataset.json"))
    {1: 'tumor, rest', 2: 'core'}
    """
    try:
        if all(str(key).isdigit() for key in labels):
            return {
                int(key): str(name) for key, name in sorted(labels.items(), key=lambda pair: int(pair[0])) if int(key)
            }
        regions = {
            name: [value] if isinstance(value, int) else [int(v) for v in value] for name, value in labels.items()
        }
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: `labels` must map names to numbers ({error}); correct it") from error
    names = {}
    for index in sorted({index for indices in regions.values() for index in indices} - {0}):
        region = min((name for name in regions if index in regions[name]), key=lambda name: len(regions[name]))
        names[index] = region if len(regions[region]) == 1 else f"{region}, rest"
    return names


Cases = dict[str, tuple[list[Path], Path | None]]
"""Case to its images by channel and its label map."""


def _found(root: Path, part: str, ending: str) -> Cases:
    """Lists the cases of `imagesTr` or `imagesTs`."""
    images: dict[str, dict[int, Path]] = {}
    faults = []
    for path in _files(root / f"images{part}", ending):
        match = _CHANNEL.fullmatch(path.name[: -len(ending)])
        if match is None:
            faults.append(f"images{part}/{path.name} does not end with a channel such as _0000{ending}")
        else:
            images.setdefault(match[1], {})[int(match[2])] = path
    for case, files in images.items():
        if sorted(files) != list(range(len(files))):
            faults.append(f"case {case!r} of images{part} has the channels {sorted(files)}")
    labels = {path.name[: -len(ending)]: path for path in _files(root / f"labels{part}", ending)}
    if part == "Tr" and (missing := sorted(set(images) - set(labels))):
        faults.append(f"labelsTr lacks the cases {', '.join(missing)}")
    faults += [f"labels{part} holds case {case!r}, which has no image" for case in sorted(set(labels) - set(images))]
    complain(root, faults)
    return {case: ([files[n] for n in sorted(files)], labels.get(case)) for case, files in sorted(images.items())}


def _files(folder: Path, ending: str) -> list[Path]:
    return [path for path in readable(folder.iterdir()) if path.name.endswith(ending)] if folder.is_dir() else []


def _listed(root: Path, cases: Mapping[str, Any]) -> Cases:
    """Takes the training cases that the description lists with their files."""
    path = root / "dataset.json"
    return {
        case: ([root / name for name in entry(files, "images", path)], root / entry(files, "label", path))
        for case, files in sorted(cases.items())
    }


def _check_count(root: Path, description: Mapping[str, Any], training: Cases) -> None:
    stated = description.get("numTraining", len(training))
    if stated != len(training):
        raise ValueError(
            f"{root}: dataset.json states {stated} training cases (numTraining), found {len(training)}; "
            "complete the files or correct the number"
        )


def _rows(root: Path, cases: Cases, channels: list[str], split: str) -> list[Row]:
    rows, faults = [], []
    for case, (images, label) in cases.items():
        colour = len(images) == 1 and len(channels) == 3 and images[0].name.lower().endswith(PICTURES)
        if len(images) != len(channels) and not colour:
            faults.append(f"case {case!r} has {len(images)} of {len(channels)} channels ({', '.join(channels)})")
            continue
        named = [channels[0] if not colour else "colour"] if len(images) == 1 else channels
        kinds = dict(zip(role_names(named), named, strict=True))
        files = {role: Location(path) for role, path in zip(kinds, images, strict=True)}
        if label is not None:
            files["labels"] = Location(label)
        rows += case_rows(case, files, kinds, split)
    complain(root, faults)
    return rows
