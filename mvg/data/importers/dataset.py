"""What an importer finds in a folder, and what importers share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mvg.data.location import Location
from mvg.data.manifest import Row, is_label


@dataclass(frozen=True)
class Dataset:
    """A data set as its layout describes it.

    Attributes:
        rows: One for each file; the split is empty where the layout states none.
        class_names: Label role to class index to name; empty where the layout names none.
        licence: Licence as stated; empty if it is not.
        remarks: Sentences for the user on what was left out or renamed.
    """

    rows: Sequence[Row]
    class_names: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    licence: str = ""
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Choice:
    """What a user may say about a layout.

    Attributes:
        fold: Fold that becomes the validation split, for layouts with folds.
        roles: Role to its folder, file name ending or column, for layouts that do not name their roles.
        work: Folder for copies, for layouts whose files are not read as they are.
    """

    fold: int | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    work: Path | None = None


def read_description(path: Path) -> dict[str, Any]:
    """Reads the JSON file that describes a data set.

    Raises:
        ValueError: If it is missing or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: the file does not exist; is this the right layout and folder?") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: the file cannot be read as JSON ({error}); restore it from its origin") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a JSON object is needed, got {type(content).__name__}; restore it from its origin")
    return content


def entry(description: Mapping[str, Any], name: str, path: Path) -> Any:
    """Returns an entry of a description. Raises ValueError if it is missing."""
    if name not in description:
        raise ValueError(f"{path}: entry {name!r} is missing, found {sorted(description)}; is this the right layout?")
    return description[name]


def role_names(modalities: Sequence[str]) -> list[str]:
    """Turns names of modalities into roles, `image` where there is but one.

    >>> role_names(["CT"]), role_names(["T1-w", "T2", "T2"])
    (['image'], ['t1_w', 't2', 't2_2'])
    """
    if len(modalities) == 1:
        return ["image"]
    roles: list[str] = []
    for modality in modalities:
        name = re.sub(r"\W+", "_", modality.lower()).strip("_") or "image"
        name = f"image_{name}" if is_label(name) else name
        roles.append(name if name not in roles else f"{name}_{len(roles)}")
    return roles


def numbered(names: Mapping[str, str], path: Path) -> list[str]:
    """Orders names by their numbers, `{"1": "T2", "0": "T1"}` to `["T1", "T2"]`.

    Raises:
        ValueError: If they are not numbered from 0; the message names the description `path`.
    """
    if not isinstance(names, Mapping) or set(names) != {str(number) for number in range(len(names))} or not names:
        raise ValueError(f"{path}: channels must be numbered from 0, such as {{'0': 'CT'}}, got {names}; correct it")
    return [str(names[key]) for key in sorted(names, key=int)]


def complain(root: Path, faults: Iterable[str]) -> None:
    """Raises ValueError with all sentences, if there are any."""
    if found := list(faults):
        raise ValueError(f"{root}: {'; '.join(found)}")


def case_rows(case: str, images: Mapping[str, Location], kinds: Mapping[str, str], split: str = "") -> list[Row]:
    """Makes the rows of a case that is a patient of its own: role to location, role to modality."""
    return [Row(case, case, split, role, location, kinds.get(role, "")) for role, location in images.items()]
