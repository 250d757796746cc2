"""The Brain Imaging Data Structure: anatomical images, and segmentations among the derivatives."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mvg.data.importers.dataset import Choice, Dataset, complain
from mvg.data.location import Location, readable
from mvg.data.manifest import Row
from mvg.data.readers import case_name, is_volume

_SEGMENTATION = "dseg"


@dataclass(frozen=True)
class Name:
    """A file name, `sub-01_ses-2_acq-fast_T1w.nii.gz`, in parts.

    Attributes:
        entities: Key to value, in order, without those of the case.
        case: Subject, session and, from the second run on, run.
        suffix: What the image is.
    """

    entities: Mapping[str, str]
    case: str
    suffix: str

    @property
    def role(self) -> str:
        """Suffix and entities that tell images of one case apart."""
        return "_".join([self.suffix.lower(), *(f"{key}_{value}" for key, value in self.entities.items())])


def parse_name(path: Path) -> Name:
    """Takes a file name apart.

    >>> parse_name(Path("sub-01_ses-2_run-1_acq-fast_T1w.nii.gz"))
    Name(entities={'acq': 'fast'}, case='sub-01_ses-2', suffix='T1w')

    Raises:
        ValueError: If it does not begin with a subject.
    """
    *pairs, suffix = case_name(path).split("_")
    entities = dict(pair.partition("-")[::2] for pair in pairs)
    if "sub" not in entities:
        raise ValueError(f"{path.name} names no subject (sub-...)")
    run = entities.pop("run", "1").lstrip("0")
    parts = [f"{key}-{entities.pop(key)}" for key in ("sub", "ses") if key in entities]
    return Name(entities, "_".join(parts + ([f"run-{run}"] if run not in ("", "1") else [])), suffix)


def read_bids(root: Path, choice: Choice) -> Dataset:
    """Reads `sub-*/[ses-*/]anat`, and `derivatives/*/sub-*/[ses-*/]anat/*_dseg`.

    Roles are the suffixes in small letters (`t1w`, `flair`), with further entities where there are some. A session is
    a case, a subject a patient, and a second run a case of its own. Segmentations in another space than that of the
    subject are left out.

    Args:
        root: Folder with the subjects.
        choice: Not used.

    Raises:
        ValueError: If there is no image, or file names break the rules.
    """
    rows: list[Row] = []
    faults: list[str] = []
    remarks: list[str] = []
    for path in _anatomical(root):
        try:
            name = parse_name(path)
        except ValueError as error:
            faults.append(str(error))
            continue
        rows.append(Row(name.case, _subject(name.case), "", name.role, Location(path), name.suffix))
    cases = {row.case for row in rows}
    for path in (path for folder in sorted((root / "derivatives").glob("*/")) for path in _anatomical(folder)):
        name = parse_name(path)
        space = dict(name.entities).pop("space", "orig")
        if name.suffix != _SEGMENTATION:
            continue
        if name.case not in cases or space not in ("orig", "T1w", "T2w", "FLAIR"):
            remarks.append(f"{path.name} is left out, as no image of the subject is in its space")
            continue
        further = [f"{key}_{value}" for key, value in name.entities.items() if key != "space"]
        rows.append(Row(name.case, _subject(name.case), "", "_".join(["labels", *further]), Location(path)))
    complain(root, faults)
    if not rows:
        raise ValueError(f"{root}: no sub-*/anat/*.nii.gz is there; is this the right layout and folder?")
    return Dataset(_simplified(rows), _class_names(root, rows), "", remarks)


def _anatomical(root: Path) -> list[Path]:
    found = [*root.glob("sub-*/anat/*"), *root.glob("sub-*/ses-*/anat/*")]
    return [path for path in readable(found) if is_volume(path)]


def _subject(case: str) -> str:
    return case.partition("_")[0]


def _simplified(rows: list[Row]) -> list[Row]:
    """Calls the label role plainly `labels` if there is but one, and puts rows in order of cases and roles."""
    labels = Counter(row.role for row in rows if row.is_label)
    if len(labels) == 1:
        rows = [Row(r.case, r.group, r.split, "labels" if r.is_label else r.role, r.location, r.modality) for r in rows]
    return sorted(rows, key=lambda row: (row.case, row.is_label, row.role))


def _class_names(root: Path, rows: list[Row]) -> dict[str, dict[int, str]]:
    """Reads the look-up table `dseg.tsv` of the only derivative that has one."""
    tables = sorted((root / "derivatives").glob("*/*dseg.tsv"))
    if len(tables) != 1 or len({row.role for row in rows if row.is_label}) != 1:
        return {}
    with tables[0].open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    try:
        return {"labels": {int(line["index"]): line["name"] for line in lines if int(line["index"])}}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{tables[0]}: columns `index` and `name` are needed ({error!r}); correct the table"
        ) from error
