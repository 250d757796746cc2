"""Images in folders without a description: a folder for each role, or names that end with the role."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from mvg.data.importers.dataset import Choice, Dataset, case_rows, complain
from mvg.data.location import Location, readable
from mvg.data.manifest import Row, is_label
from mvg.data.readers import case_name

ROLES = {
    "image": ("images", "image", "imgs", "img"),
    "labels": ("labels", "label", "masks", "mask", "annotations", "segmentations"),
}
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
ENDINGS = ("_labels", "_label", "_mask", "_masks", "_segmentation", "_seg", "_gt")


def read_folders(root: Path, choice: Choice) -> Dataset:
    """Reads a folder for each role, in which the files of a case share their name.

    The role folders lie in `root`, or in `train`, `val` and `test` below it, or have these below themselves
    (`images/train`); names that several splits hold get the split in front. By default `images` is the role `image`,
    and `labels` or `masks` the role `labels`.

    Args:
        root: The folder.
        choice: `roles` maps roles to folders.

    Raises:
        ValueError: If no folder holds images, or a case lacks its image.
    """
    rows: list[Row] = []
    arrangements = [
        (split, {role: _by_case(folder) for role, folder in roles.items()})
        for split, roles in _arrangements(root, choice.roles)
    ]
    names = Counter(case for _, found in arrangements for case in set().union(*found.values()))
    for split, found in arrangements:
        images = {case for role, files in found.items() if not is_label(role) for case in files}
        complain(
            root,
            (
                f"{found[role][case]} has no image of its name"
                for role in found
                for case in sorted(set(found[role]) - images)
            ),
        )
        for case in sorted(images):
            files = {role: Location(paths[case]) for role, paths in found.items() if case in paths}
            rows += case_rows(case if names[case] == 1 else f"{split}_{case}", files, {}, split)
    if not rows:
        wanted = ", ".join(choice.roles.values() or [names[0] for names in ROLES.values()])
        raise ValueError(f"{root}: no images are in the folders {wanted}; name the folder of each role with --roles")
    return Dataset(rows)


def _arrangements(root: Path, chosen: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Path]]]:
    """Yields split and role folders, however they are nested."""
    yield from _with_images("", _role_folders(root, chosen))
    for folder, split in SPLIT_FOLDERS.items():
        yield from _with_images(split, _role_folders(root / folder, chosen))
        nested = {role: path / folder for role, path in _role_folders(root, chosen).items()}
        yield from _with_images(split, {role: path for role, path in nested.items() if path.is_dir()})


def _with_images(split: str, roles: dict[str, Path]) -> Iterator[tuple[str, dict[str, Path]]]:
    if any(readable(path.iterdir()) for path in roles.values()):
        yield split, roles


def _role_folders(root: Path, chosen: Mapping[str, str]) -> dict[str, Path]:
    if chosen:
        return {role: root / name for role, name in chosen.items() if (root / name).is_dir()}
    found = {role: [root / name for name in names if (root / name).is_dir()] for role, names in ROLES.items()}
    return {role: paths[0] for role, paths in found.items() if paths}


def _by_case(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in readable(folder.iterdir()):
        first = files.setdefault(case_name(path), path)
        if first != path:
            raise ValueError(f"{path}: {first.name} is the same case; keep one of them")
    return files


def read_pairs(root: Path, choice: Choice) -> Dataset:
    """Reads one folder in which names end with the role, such as `a.png` and `a_mask.png`.

    Args:
        root: The folder.
        choice: `roles` maps roles to endings; a role with an empty ending takes all other files. By default the
            label maps end with `_mask`, `_label`, `_seg` or the like.

    Raises:
        ValueError: If there are no images, or a label map without its image.
    """
    endings = {role: [ending] for role, ending in choice.roles.items()} or {"image": [""], "labels": [*ENDINGS]}
    cases: dict[str, dict[str, Location]] = {}
    for path in readable(root.iterdir()) if root.is_dir() else []:
        name = case_name(path)
        fits = [(len(ending), role) for role, given in endings.items() for ending in given if name.endswith(ending)]
        if not fits:
            continue
        length, role = max(fits)
        files = cases.setdefault(name[: len(name) - length], {})
        if role in files:
            raise ValueError(f"{path}: {files[role].name} has the same role {role!r}; keep one of them")
        files[role] = Location(path)
    complain(
        root,
        (
            f"{next(iter(files.values())).name} has no image {case!r}"
            for case, files in sorted(cases.items())
            if all(map(is_label, files))
        ),
    )
    rows = [
        row
        for case, files in sorted(cases.items())
        for row in case_rows(case, {role: files[role] for role in endings if role in files}, {})
    ]
    if not rows:
        raise ValueError(f"{root}: no image is in this folder; is this the right layout and folder?")
    return Dataset(rows)
