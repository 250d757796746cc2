"""Readers of layouts that are more than a pattern for each kind of file."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mvg.data.datasets.made import Box, convert_series, join_masks, paint_boxes
from mvg.data.importers.datalists import read_decathlon
from mvg.data.importers.dataset import Choice, Dataset, complain
from mvg.data.location import Location, readable
from mvg.data.manifest import Row

_SPLITS = {"1": "train", "2": "val", "3": "test"}
_LESIONS = ("File_name", "Patient_index", "Bounding_boxes", "Possibly_noisy", "Train_Val_Test")
_SHOWN = 5


@dataclass(frozen=True)
class Decathlon:
    """Reads the labelled cases of a task of the Medical Segmentation Decathlon.

    Attributes:
        folder: Name of the task's folder.
        classes: Class index to name; the description may spell the names in another way.
        roles: Role of each channel.
    """

    folder: str
    classes: Mapping[int, str]
    roles: Sequence[str]

    def __call__(self, root: Path, work: Path) -> Dataset:
        """Lists the cases; the test images have no labels and are left out.

        Raises:
            ValueError: If the description is missing, contradicts the files, or is that of another task.
        """
        place = root if (root / "dataset.json").is_file() else root / self.folder
        found = read_decathlon(place, Choice())
        names = found.class_names["labels"]
        channels = list(dict.fromkeys(row.role for row in found.rows if not row.is_label))
        if names.keys() != self.classes.keys() or len(channels) != len(self.roles):
            raise ValueError(
                f"{place}: {len(channels)} channels and the classes {dict(names)} instead of {len(self.roles)} and "
                f"{dict(self.classes)}; this is not {self.folder}"
            )
        roles = dict(zip(channels, self.roles, strict=True)) | {"labels": "labels"}
        rows = [replace(row, role=roles[row.role]) for row in found.rows if row.split != "test"]
        missing = [f"{row.location} is missing" for row in rows if not row.location.path.is_file()]
        complain(place, list(dict.fromkeys(missing))[:_SHOWN])
        bare = len({row.case for row in found.rows if row.split == "test"})
        return replace(found, rows=rows, remarks=[f"left out {bare} test images without labels"] * bool(bare))


@dataclass(frozen=True)
class JoinedMasks:
    """Reads pictures with a mask for each class in folders of their own, and joins the masks.

    Attributes:
        images: Folder of the images.
        masks: Class to the folder of its masks, whose files are named as the images.
    """

    images: str
    masks: Mapping[int, str]

    def __call__(self, root: Path, work: Path) -> Dataset:
        """Lists the images that lie in `images`, in the folder or one below it.

        Raises:
            ValueError: If there are none, or a mask is missing or damaged.
        """
        place = next((path for path in (root, *sorted(root.glob("*/"))) if (path / self.images).is_dir()), root)
        paths = readable((place / self.images).glob("*.png"))
        if not paths:
            raise ValueError(f"{place}: no picture is in {self.images}; is this the folder of this data set?")
        names = {path.name for path in paths}
        faults = [
            f"{place / folder / name} is missing"
            for folder in self.masks.values()
            for name in sorted(names)
            if not (place / folder / name).is_file()
        ]
        faults += [
            f"{path} has no image"
            for folder in self.masks.values()
            for path in readable((place / folder).glob("*.png"))
            if path.name not in names
        ]
        complain(place, faults[:_SHOWN])
        rows = []
        for path in paths:
            target = work / f"{path.stem}_labels.png"
            join_masks({index: place / folder / path.name for index, folder in self.masks.items()}, target)
            rows.append(Row(path.stem, path.stem, "", "image", Location(path)))
            rows.append(Row(path.stem, path.stem, "", "labels", Location(target)))
        return Dataset(rows)


def read_total_segmentator(root: Path, work: Path) -> Dataset:
    """Reads `s0000/ct.nii.gz` with a mask for each structure in `s0000/segmentations`, and `meta.csv` with the splits.

    Args:
        root: The folder of `meta.csv`, or one above it.
        work: Takes the joined label maps.

    Raises:
        ValueError: If table or files are missing, or the cases do not hold the same structures.
    """
    table = next((path for path in (root / "meta.csv", *sorted(root.glob("*/meta.csv"))) if path.is_file()), None)
    if table is None:
        raise ValueError(f"{root}: meta.csv is missing; is this the folder of this data set?")
    lines = read_lines(table, ("image_id", "split"))
    names = sorted({path.name for line in lines for path in _segmentations(table.parent / line["image_id"])})
    folders = [table.parent / line["image_id"] for line in lines]
    files = [(folder, path) for folder in folders for path in ("ct.nii.gz", *(f"segmentations/{n}" for n in names))]
    complain(table, [f"{folder.name} lacks {path}" for folder, path in files if not (folder / path).is_file()][:_SHOWN])
    rows = []
    for line, folder in zip(lines, folders, strict=True):
        target = work / f"{folder.name}_labels.nii.gz"
        join_masks({index: folder / "segmentations" / name for index, name in enumerate(names, 1)}, target)
        for role, path in (("image", folder / "ct.nii.gz"), ("labels", target)):
            rows.append(Row(folder.name, folder.name, line["split"], role, Location(path), "CT"))
    classes = {index: name.removesuffix(".nii.gz").replace("_", " ") for index, name in enumerate(names, 1)}
    return Dataset(rows, {"labels": classes})


def _segmentations(folder: Path) -> list[Path]:
    return [path for path in sorted((folder / "segmentations").glob("*.nii.gz")) if path.name[0] != "."]


def read_lines(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Reads a table that a data set brings, separated by commas or semicolons.

    Raises:
        ValueError: If it is missing, is no table in UTF-8, or lacks a column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ValueError(f"{path}: the file does not exist; is this the folder of this data set?") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: the table cannot be read as UTF-8 ({error}); restore it") from error
    head = text.partition("\n")[0]
    lines = list(csv.DictReader(text.splitlines(), delimiter=";" if head.count(";") > head.count(",") else ","))
    if not lines or (lacking := [name for name in columns if lines[0].get(name) is None]):
        raise ValueError(f"{path}: the columns {lacking if lines else list(columns)} are missing; restore the table")
    return lines


def read_deep_lesion(root: Path, work: Path) -> Dataset:
    """Reads `DL_info.csv` and the key slices `Images_png/SERIES/SLICE.png`, and paints the boxes into label maps.

    Series of which nothing was downloaded are left out, as are slices with a box that the table calls noisy.

    Args:
        root: Folder of the table.
        work: Takes the label maps.

    Raises:
        ValueError: If table or slices are missing or damaged.
    """
    lines = read_lines(root / "DL_info.csv", _LESIONS)
    images = next((path for path in (root / "Images_png" / "Images_png", root / "Images_png") if path.is_dir()), root)
    slices: dict[str, list[dict[str, str]]] = {}
    for line in lines:
        slices.setdefault(line["File_name"], []).append(line)
    present = {path.name for path in images.iterdir() if path.is_dir()}
    noisy = {name for name, boxes in slices.items() if any(line["Possibly_noisy"].strip() == "1" for line in boxes)}
    kept = {name: boxes for name, boxes in slices.items() if _series(name)[0] in present and name not in noisy}
    places = {name: images / _series(name)[0] / _series(name)[1] for name in kept}
    if not kept:
        raise ValueError(f"{images}: no series of DL_info.csv is here; unpack the archives Images_png_*.zip")
    complain(root, [f"{path} is missing" for path in places.values() if not path.is_file()][:_SHOWN])
    rows = []
    for name, boxes in kept.items():
        case, target = Path(name).stem, work / f"{Path(name).stem}_labels.png"
        paint_boxes(places[name], [_box(line, root) for line in boxes], target)
        split = _SPLITS.get(boxes[0]["Train_Val_Test"].strip(), "?")
        for role, path in (("image", places[name]), ("labels", target)):
            rows.append(Row(case, boxes[0]["Patient_index"].strip(), split, role, Location(path), "CT"))
    absent = len(slices) - len(kept) - len(noisy)
    words = [f"left out {absent} slices of series that are not here"] * bool(absent)
    return Dataset(rows, remarks=words + [f"left out {len(noisy)} slices with noisy boxes"] * bool(noisy))


def _series(name: str) -> tuple[str, str]:
    """Splits `000001_01_01_109.png` into series and slice.

    >>> _series("000001_01_01_109.png")
    ('000001_01_01', '109.png')
    """
    series, _, number = name.rpartition("_")
    return series, number


def _box(line: Mapping[str, str], root: Path) -> Box:
    try:
        left, upper, right, lower = (float(value) for value in line["Bounding_boxes"].split(","))
    except ValueError as error:
        raise ValueError(
            f"{root / 'DL_info.csv'}: box {line['Bounding_boxes']!r} of {line['File_name']} is no box"
        ) from error
    return left, upper, right, lower


@dataclass(frozen=True)
class LowDose:
    """Reads full-dose and low-dose reconstructions, DICOM series `PATIENT/STUDY/N-Full Dose Images-N`.

    Attributes:
        letter: First letter of the patients of one body part: C for chest, L for abdomen, N for head.
    """

    letter: str

    def __call__(self, root: Path, work: Path) -> Dataset:
        """Converts the series to volumes; patients of whom only one dose was reconstructed are left out.

        Raises:
            ValueError: If there is no such patient, or a series is damaged or lacks slices.
        """
        found: dict[str, dict[str, Path]] = {}
        for folder in sorted(path.parent for path in root.rglob("*-*1.dcm")):
            kind = re.search(r"(full|low) dose images", folder.name.lower())
            patient = next((part for part in folder.parts if re.fullmatch(rf"{self.letter}\d{{3}}", part)), None)
            if kind and patient:
                role = {"full": "image", "low": "noisy"}[kind[1]]
                if found.setdefault(patient, {}).setdefault(role, folder) != folder:
                    raise ValueError(f"{folder}: {found[patient][role]} is the same series of {patient}; keep one")
        whole = {patient: series for patient, series in sorted(found.items()) if len(series) == 2}
        if not whole:
            raise ValueError(
                f"{root}: no patient {self.letter}... with 'Full Dose Images' and 'Low Dose Images' is here"
            )
        rows = []
        for patient, series in whole.items():
            for role in ("image", "noisy"):
                target = work / f"{patient}_{role}.nii.gz"
                convert_series(series[role], target)
                rows.append(Row(patient, patient, "", role, Location(target), "CT"))
        bare = len(found) - len(whole)
        return Dataset(rows, remarks=[f"left out {bare} patients with one dose only"] * bool(bare))
