"""A data set in words and on a contact sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mvg.data.file_source import FileSource
from mvg.data.manifest_source import ManifestSource
from mvg.data.source import SPLITS
from mvg.data.subject import Item

if TYPE_CHECKING:
    from PIL.Image import Image

ROWS = 4


def describe(source: ManifestSource) -> list[str]:
    """Describes cases, patients, roles and classes of a data set, and what looks wrong with it, in sentences.

    Args:
        source: The data set; its files are read and prepared.

    Raises:
        ValueError: If files are missing or damaged.
    """
    records, rows = source.records(), source.rows
    patients = {next(iter(roles.values())).group for roles in rows.values()}
    sizes = Counter(" x ".join(map(str, record["shape"])) for record in records.values())
    words = [f"{source.manifest}: {len(rows)} cases of {len(patients)} patients."]
    for split in SPLITS:
        items = source.items(split)
        cases = {item.case for item in items}
        words.append(
            f"{split}: {len(cases)} cases of {len({item.group for item in items})} patients, {len(items)} images."
        )
    common = ", ".join(f"{size} ({count} cases)" for size, count in sizes.most_common(3))
    words.append(f"Sizes in pixels: {common}{' and others' if len(sizes) > 3 else ''}.")
    return words + list(_directions(source)) + list(_roles(source)) + list(_classes(source)) + list(_doubts(source))


def _directions(source: ManifestSource) -> Iterator[str]:
    """Says how `slices: auto`, which decides for each case, cuts the cases."""
    if source.slices != "auto":
        return
    cut: dict[str, list[str]] = {}
    for case, record in source.records().items():
        if record["axis"]:
            cut.setdefault(record["axis"], []).append(case)
    counts = ", ".join(
        f"{name} {len(cases)} ({', '.join(cases[:3])}{', ...' if len(cases) > 3 else ''})"
        for name, cases in sorted(cut.items(), key=lambda entry: -len(entry[1]))
    )
    if len(cut) > 1:
        yield (
            f"Doubtful: `auto` cuts the cases along different axes: {counts}; for one direction say "
            "--slices axial here, and `slices: axial` of the source in the configuration."
        )
    elif cut:
        yield f"`auto` cuts {next(iter(cut))} slices."


def _roles(source: ManifestSource) -> Iterator[str]:
    rows = [row for roles in source.rows.values() for row in roles.values()]
    for role, count in Counter(row.role for row in rows).items():
        modalities = ", ".join(sorted({row.modality for row in rows if row.role == role and row.modality}))
        kind = "label maps" if role in source.recipe.label_roles else f"images{modalities and f' ({modalities})'}"
        lacking = f"; {len(source.rows) - count} cases lack it" if count < len(source.rows) else ""
        yield f"Role {role}: {count} {kind}{lacking}."


def _classes(source: ManifestSource) -> Iterator[str]:
    for role in sorted(source.recipe.label_roles):
        cases: Counter[int] = Counter()
        for record in source.records().values():
            cases.update(record["classes"].get(role, []))
        names = source.class_names.get(role, {})
        for index, count in sorted(cases.items()):
            shown = f" ({names[index]})" if index in names else ""
            yield f"Class {index}{shown} of {role}: in {count} cases."


def _doubts(source: ManifestSource) -> Iterator[str]:
    """What is allowed, but seldom meant."""
    for split in SPLITS:
        if not source.items(split):
            yield f"Doubtful: the split {split} is empty."
    for role in sorted(source.recipe.label_roles):
        empty = [case for case, record in source.records().items() if record["classes"].get(role) == []]
        if empty:
            yield f"Doubtful: {len(empty)} label maps of role {role} are empty ({', '.join(empty[:5])})."
    if not any(row.sha256 for roles in source.rows.values() for row in roles.values()):
        yield "Doubtful: the manifest holds no hashes; changed files and copies in two splits cannot be found."


def draw_sheet(source: FileSource, rows: int = ROWS, size: int = 160) -> Image:
    """Draws the image roles of some cases, and each label map over the reference image; the splits side by side.

    Args:
        source: The data set.
        rows: Most cases of a split.
        size: Height of a tile in pixels.
    """
    import numpy as np

    from mvg.drawing import beside, sheet, to_picture
    from mvg.prediction.preview import show

    labels = sorted(source.recipe.label_roles)
    roles = dict.fromkeys(role for record in source.records().values() for role in record["files"])
    images = [role for role in roles if role not in labels]
    pages = []
    for split in SPLITS:
        pictures, names = [], []
        for item in _examples(source.items(split), rows):
            subject = source.read(item)
            reference = subject.images[source.recipe.reference]
            blank = np.zeros_like(to_picture(reference, size))
            row = [to_picture(subject.images[role], size) if role in subject.images else blank for role in images]
            row += [show(reference, subject.labels[role], size) if role in subject.labels else blank for role in labels]
            pictures.append(row)
            names.append(f"{split} {item.case}" + ("" if item.slice is None else f" slice {item.slice}"))
        if pictures:
            pages.append(sheet(pictures, [*images, *labels], names))
    if not pages:
        raise ValueError(
            f"source {source.name!r}: all images are empty, none can be drawn; check files and intensity rules"
        )
    return beside(pages)


def _examples(items: Sequence[Item], most: int) -> list[Item]:
    """Returns the image with the most classes of some cases, the one nearest to the middle among equals."""
    best: dict[str, Item] = {}
    for item in items:
        rank = (sum("=" in key for key in item.keys), -abs(item.position - 0.5))
        first = best.get(item.case)
        if first is None or rank > (sum("=" in key for key in first.keys), -abs(first.position - 0.5)):
            best[item.case] = item
    cases = sorted(best)
    step = max(1, len(cases) // most)
    return [best[case] for case in cases[::step][:most]]
