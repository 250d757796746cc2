"""Data sets that a JSON file lists: the Medical Segmentation Decathlon, and data lists of MONAI."""

from __future__ import annotations

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
from mvg.data.importers.nnunet import class_names
from mvg.data.location import READABLE, Location
from mvg.data.manifest import Row, is_label
from mvg.data.readers import case_name

_LABELS = ("label", "labels", "seg", "mask")
_SECTIONS = {"training": "", "train": "", "validation": "val", "val": "val", "testing": "test", "test": "test"}


def read_decathlon(root: Path, choice: Choice) -> Dataset:
    """Reads `dataset.json` of a task of the Medical Segmentation Decathlon.

    The channels of 4D images become roles, named after their modalities, and are written as `FILE#0`, `FILE#1`, ...
    The unlabelled images of `test` are the test split. Files that a Mac left (`._NAME`) are ignored.

    Args:
        root: Folder `TaskXX_Name`.
        choice: Not used.

    Raises:
        ValueError: If description and files disagree.
    """
    path = root / "dataset.json"
    description = read_description(path)
    modalities = numbered(entry(description, "modality", path), path)
    kinds = dict(zip(role_names(modalities), modalities, strict=True))
    rows, faults = [], []
    listed = [(entry(case, "image", path), entry(case, "label", path)) for case in entry(description, "training", path)]
    training = [(image, label) for image, label in listed if not _is_hidden(image)]
    testing = [name for name in map(_image_of, description.get("test", [])) if not _is_hidden(name)]
    for name, expected, found in (("numTraining", len(training), training), ("numTest", len(testing), testing)):
        if description.get(name, expected) != len(found):
            faults.append(
                f"dataset.json states {name} = {description[name]} and lists {len(found)}; correct one of them"
            )
    for image, label in training:
        files = _channels(root / image, list(kinds)) | {"labels": Location(root / label)}
        rows += case_rows(case_name(Path(image)), files, kinds)
    for name in testing:
        rows += case_rows(case_name(Path(name)), _channels(root / name, list(kinds)), kinds, "test")
    complain(root, faults)
    names = class_names(entry(description, "labels", path), path)
    return Dataset(rows, {"labels": names}, str(description.get("licence") or description.get("license") or ""))


def _image_of(test: Any) -> str:
    return str(test["image"] if isinstance(test, Mapping) else test)


def _is_hidden(name: str) -> bool:
    return Path(name).name.startswith(".")


def _channels(path: Path, roles: list[str]) -> dict[str, Location]:
    if len(roles) == 1:
        return {roles[0]: Location(path)}
    return {role: Location(path, str(number)) for number, role in enumerate(roles)}


def read_monai(path: Path, choice: Choice) -> Dataset:
    """Reads a data list of MONAI: sections of cases, each a dictionary of files.

    `label` becomes the role `labels`; a list of images becomes `image_0`, `image_1`, ...; every other entry that names
    an image file is a role of its own. `validation` and `testing` are splits; `training` is divided by shares, or by
    its folds if one is chosen.

    Args:
        path: The JSON file, or a folder with a `dataset.json` or `datalist.json`.
        choice: `fold` is the validation split.

    Raises:
        ValueError: If there is no such list, or an entry names no image.
    """
    if path.is_dir():
        path = next((path / name for name in ("datalist.json", "dataset.json") if (path / name).is_file()), path)
    description = read_description(path)
    rows: list[Row] = []
    folds = set()
    for section, split in _SECTIONS.items():
        for case in description.get(section, []):
            files = {"image": case} if isinstance(case, str) else case
            fold = files.get("fold")
            folds |= {fold} if fold is not None and not split else set()
            if choice.fold is not None and not split:
                rows += _monai_case(path, files, "val" if fold == choice.fold else "train")
            else:
                rows += _monai_case(path, files, split)
    if choice.fold is not None and choice.fold not in folds:
        raise ValueError(f"{path}: no case is in fold {choice.fold}; the folds are {sorted(folds)}")
    if not rows:
        raise ValueError(f"{path}: none of the sections {', '.join(_SECTIONS)} lists a case; is this the right layout?")
    labels = description.get("labels")
    names = {"labels": class_names(labels, path)} if isinstance(labels, Mapping) else {}
    return Dataset(rows, names, str(description.get("licence") or description.get("license") or ""))


def _monai_case(path: Path, files: Mapping[str, Any], split: str) -> list[Row]:
    images: dict[str, Location] = {}
    for key, value in files.items():
        for number, name in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(name, str) or not name.lower().endswith(READABLE):
                continue
            role = "labels" if key in _LABELS else key
            several = isinstance(value, list) and len(value) > 1
            images[f"{role}_{number}" if several else role] = Location.parse(name, path.parent)
    if all(map(is_label, images)):
        raise ValueError(f"{path}: the entry {dict(files)} names no image file; correct it")
    first = next(location for role, location in images.items() if not is_label(role))
    case = str(files.get("id") or files.get("case") or case_name(first.path))
    return [Row(case, str(files.get("patient") or case), split, role, location) for role, location in images.items()]
