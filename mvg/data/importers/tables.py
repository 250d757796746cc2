"""Tables with a row for each case, and archives of arrays with an entry for each."""

from __future__ import annotations

import csv
from pathlib import Path

from mvg.data.archive import shapes
from mvg.data.importers.dataset import Choice, Dataset, case_rows
from mvg.data.location import READABLE, Location
from mvg.data.manifest import Row
from mvg.data.source import SPLITS

_CASE = ("case", "id", "name")
_GROUP = ("group", "patient", "subject", "patient_id", "subject_id")
_LABELS = ("labels", "label", "masks", "mask")


def read_table(path: Path, choice: Choice) -> Dataset:
    """Reads a CSV file with a row for each case and a column of paths for each role.

    The columns `case`, `patient` (or `group`), `split` and `modality` are known by name; all others whose first entry
    names an image are roles. Paths are relative to the table.

    Args:
        path: The table, in UTF-8.
        choice: `roles` maps roles to columns.

    Raises:
        ValueError: If the table cannot be read or no column names images.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file, restval="", strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: the table cannot be read as CSV in UTF-8 ({error})") from error
    columns = [name for name in (lines[0] if lines else []) if name]
    roles = dict(choice.roles) or {
        _role(name): name
        for name in columns
        if any(Location.parse(line[name] or "", path.parent).path.name.lower().endswith(READABLE) for line in lines)
    }
    if unknown := [name for name in roles.values() if name not in columns]:
        raise ValueError(f"{path}: there is no column {unknown[0]!r}; the columns are {columns}")
    if not roles:
        raise ValueError(f"{path}: no column names images, found {columns}; name the column of each role with --roles")
    rows = []
    for number, line in enumerate(lines, 2):
        files = {role: Location.parse(line[name], path.parent) for role, name in roles.items() if line[name]}
        case = next((line[name] for name in _CASE if line.get(name)), f"row_{number}")
        group = next((line[name] for name in _GROUP if line.get(name)), case)
        split, modality = line.get("split") or "", line.get("modality") or ""
        rows += [Row(case, group, split, role, place, modality) for role, place in files.items()]
    return Dataset(rows)


def _role(column: str) -> str:
    name = column.strip().lower().removesuffix("_path")
    return "labels" if name in _LABELS else name


def read_npz(path: Path, choice: Choice) -> Dataset:
    """Reads an archive of MedMNIST or MedSegBench: `train_images`, `val_images`, `test_images` and label maps.

    `train_label`, `train_labels` or `train_masks` is the role `labels` if it has the shape of the images; one class
    for a whole image is left out. Images are named `ARCHIVE#train_images/0` and so on.

    Args:
        path: The NPZ file.
        choice: Not used.

    Raises:
        ValueError: If it is damaged or holds no such arrays.
    """
    known = shapes(path)
    rows: list[Row] = []
    remarks = []
    for split in SPLITS:
        images = known.get(f"{split}_images")
        if images is None:
            continue
        maps = [name for name in (f"{split}_{end}" for end in _LABELS) if len(known.get(name, ())) >= 3]
        fitting = [name for name in maps if known[name][:3] == images[:3]]
        if not fitting:
            remarks.append(f"{path.name} holds no label maps for {split}_images; they serve tasks without labels")
        for number in range(images[0]):
            files = {"image": Location(path, f"{split}_images/{number}")}
            if fitting:
                files["labels"] = Location(path, f"{fitting[0]}/{number}")
            rows += case_rows(f"{path.stem}_{split}_{number}", files, {}, split)
    if not rows:
        raise ValueError(f"{path}: no array train_images, val_images or test_images is there, found {sorted(known)}")
    return Dataset(rows, {}, "", remarks)
