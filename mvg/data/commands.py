"""Writes manifests for data sets and looks through them: `mvg data prepare`, `check`, `join`, `datasets`."""

from __future__ import annotations

import difflib
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mvg.data.datasets import DATASETS, UNREAD, PublicSet
from mvg.data.datasets.configuration import data_options, page, shares_of, source_arguments, table
from mvg.data.datasets.configuration import describe as describe_set
from mvg.data.importers import LAYOUTS, Choice, Dataset, assembly
from mvg.data.inspection import describe, draw_sheet
from mvg.data.joining import join
from mvg.data.manifest import check_rows, write_manifest
from mvg.data.manifest_source import ManifestSource
from mvg.data.source import SPLITS
from mvg.files import write_atomically

logger = logging.getLogger(__name__)

_SHOWN = 5
_SPLIT = "0.7,0.1,0.2"


def prepare(
    folder: Path,
    output: Path,
    layout: str | None = None,
    dataset: str | None = None,
    split: str | None = None,
    seed: int = 0,
    group_pattern: str | None = None,
    image: str | None = None,
    roles: dict[str, str] | None = None,
    fold: int | None = None,
    drop_copies: bool = False,
    config_output: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Writes the manifest of a data set, and beside it a configuration, `.yaml`, for `mvg fit`.

    Every file is read to its end; if one is damaged, all such files are named and nothing is written.

    Args:
        folder: The data set: a folder; a JSON file (monai), a CSV file (table) or an NPZ archive (npz).
        output: The manifest, .csv or .parquet.
        layout: One of nnunet, decathlon, monai, bids, folders, pairs, table, npz, dicom.
        dataset: A public data set, instead of a layout; `mvg data datasets` lists them.
        split: Shares of the patients for train, val and test; cases whose layout states a split keep it. By default
            those of the public data set, or 0.7,0.1,0.2.
        seed: Seed of the division.
        group_pattern: Regular expression whose first bracket finds the patient in the name of a case.
        image: Role that becomes `image`; by default the one that most cases have. Public data sets name their roles.
        roles: Role to its folder (folders), name ending (pairs) or column (table).
        fold: Fold that becomes the validation split (monai).
        drop_copies: Leave cases out whose image is also in a later split, instead of refusing them.
        config_output: The configuration; by default the manifest with .yaml.
        overwrite: Replace files that exist.

    Raises:
        ValueError: If options, layout or files are wrong.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"there is no layout {layout!r}; choose one of {', '.join(LAYOUTS)}")
    public = None if dataset is None else _public(dataset)
    if (layout is None) == (public is None):
        raise ValueError("name either a `layout` or a public `dataset`; `mvg data datasets` lists these")
    config = config_output or output.with_suffix(".yaml")
    if existing := [str(path) for path in (output, config) if path.exists() and not overwrite]:
        raise ValueError(f"{' and '.join(existing)} exists already; choose another name or say --overwrite true")
    shares = None if split is None else _shares(split)
    if public is None:
        with made_files(output.with_name(f"{output.stem}_files")) as work:
            found = LAYOUTS[str(layout)](folder, Choice(fold, roles or {}, work))
            found = replace(found, rows=assembly.name_image(found.rows, image))
            finish(found, folder, output, config, shares or _shares(_SPLIT), seed, group_pattern, drop_copies)
        return
    with made_files(output.with_name(f"{output.stem}_files")) as work:
        found = public.read(folder, work)
        found = replace(found, class_names=found.class_names or public.class_names)
        shares = shares or shares_of(public, found)
        finish(found, folder, output, config, shares, seed, group_pattern, drop_copies, public)


def _public(name: str) -> PublicSet:
    if name not in DATASETS:
        close = difflib.get_close_matches(name, DATASETS) or list(DATASETS)
        raise ValueError(
            f"there is no recipe for {name!r}; did you mean {', '.join(close)}? `mvg data datasets` lists all"
        )
    return DATASETS[name]


@contextmanager
def made_files(folder: Path) -> Iterator[Path]:
    """Yields the folder for files that a recipe makes; it is removed again if the recipe fails and it was new."""
    is_new = not folder.exists()
    try:
        yield folder
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def finish(
    dataset: Dataset,
    place: Path,
    output: Path,
    config: Path,
    shares: dict[str, float],
    seed: int,
    group_pattern: str | None,
    drop_copies: bool,
    public: PublicSet | None = None,
) -> None:
    """Divides, reads and checks what was found, and writes manifest and configuration; arguments as of `prepare`."""
    rows = assembly.find_groups(dataset.rows, group_pattern)
    rows = assembly.decide_splits(rows, shares, seed)
    check_rows(rows, place)
    rows, faults = assembly.examine(replace(dataset, rows=rows))
    if faults:
        raise ValueError(f"{place}: {len(faults)} files cannot be used: {'; '.join(faults)}")
    remarks = list(dataset.remarks)
    if drop_copies:
        rows, dropped = assembly.drop_copies(rows)
        remarks += [f"left out {len(dropped)} cases whose image another split holds too: {_some(dropped)}"] * bool(
            dropped
        )
    write_manifest(output, rows)
    _write_config(config, output, dataset, public)
    for remark in remarks:
        logger.info("%s", remark)
    cases = {row.case: row.split for row in rows}
    counts = ", ".join(f"{sum(found == name for found in cases.values())} {name}" for name in SPLITS)
    logger.info("%s: %d files of %d cases (%s)", output, len(rows), len(cases), counts)
    if public is not None:
        terms = public.terms
        logger.info("licence: %s%s", terms.licence, "" if terms.checked else "; read it where the data came from")
    logger.info("train with: mvg fit --config configs/my_scans.yaml --config %s", config)


def _shares(split: str) -> dict[str, float]:
    try:
        shares = [float(share) for share in split.split(",")]
    except ValueError as error:
        raise ValueError(f"`split` takes three shares such as 0.7,0.1,0.2, got {split!r}") from error
    if len(shares) != len(SPLITS):
        raise ValueError(f"`split` takes the shares of {', '.join(SPLITS)}, got {len(shares)} numbers in {split!r}")
    return dict(zip(SPLITS, shares, strict=True))


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _write_config(path: Path, manifest: Path, dataset: Dataset, public: PublicSet | None) -> None:
    """Writes a configuration that makes this the only source; that of a public data set names its tasks, too."""
    name = re.sub(r"\W", "_", manifest.stem)
    modalities = dict.fromkeys(row.modality for row in dataset.rows if row.modality)
    arguments: dict[str, Any] = {"manifest": str(manifest.absolute()), "name": name}
    if names := {role: dict(classes) for role, classes in dataset.class_names.items() if classes}:
        arguments["class_names"] = names
    if modalities:
        arguments["modality"] = ", ".join(modalities)
    arguments["licence"] = dataset.licence or "unknown"
    if public is not None:
        arguments |= source_arguments(public)
    source = {"class_path": "mvg.data.ManifestSource", "init_args": arguments}
    options = {"sources": {name: source}} | ({} if public is None else data_options(public))
    text = OmegaConf.to_yaml(OmegaConf.create({"data": options}))
    write_atomically(path, lambda file: file.write(text.encode()))


def check(manifest: Path, sheet: Path | None = None, slices: str | None = "auto", cache: str | None = None) -> None:
    """Reads the data set of a manifest as training does, describes it in words, and draws a contact sheet.

    Args:
        manifest: The manifest.
        sheet: PNG with cases of every split and their label maps; by default MANIFEST.png.
        slices: How volumes are cut: "axial", "coronal", "sagittal" or "auto" (across the coarser spacing, else axial).
        cache: Folder of the prepared data; by default that of the user, or `MVG_CACHE`.

    Raises:
        ValueError: If the manifest is wrong, or files are missing, damaged or not those it was written for.
    """
    sheet = sheet or manifest.with_suffix(".png")
    if slices is None:
        raise ValueError("`slices` must name a direction, as the contact sheet shows slices; got null")
    source = ManifestSource(str(manifest), slices=slices, cache=cache)
    words = describe(source)
    write_atomically(sheet, lambda file: draw_sheet(source).save(file, format="PNG"))
    sys.stdout.write("\n".join([*words, f"Contact sheet: {sheet}", ""]))


def datasets(name: str | None = None, output: Path | None = None) -> None:
    """Lists the public data sets that `mvg data prepare --dataset NAME` knows, or describes one of them.

    Args:
        name: Describes this one: origin, licence, layout, split, labels and what to know before use.
        output: Writes the page of all of them, in Markdown, to this file.

    Raises:
        ValueError: If there is no such data set.
    """
    if output is not None:
        text = page(tuple(DATASETS.values()), UNREAD)
        write_atomically(output, lambda file: file.write(text.encode()))
        logger.info("%s: %d data sets", output, len(DATASETS))
        return
    lines = table(DATASETS.values()) if name is None else describe_set(_public(name))
    sys.stdout.write("\n".join([*lines, ""]))


commands: dict[str, Callable[..., None]] = {"prepare": prepare, "check": check, "join": join, "datasets": datasets}
"""The words after `mvg data`."""
