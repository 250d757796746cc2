"""Writes manifests for data sets of common layouts, and looks through them: `mvg data prepare` and `mvg data check`."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mvg.data.cache import write_atomically
from mvg.data.importers import LAYOUTS, Choice, Dataset, assembly
from mvg.data.inspection import describe, draw_sheet
from mvg.data.manifest import check_rows, write_manifest
from mvg.data.manifest_source import ManifestSource
from mvg.data.source import SPLITS

logger = logging.getLogger(__name__)

_SHOWN = 5


def prepare(
    layout: str,
    folder: Path,
    output: Path,
    split: str = "0.7,0.1,0.2",
    seed: int = 0,
    group_pattern: str | None = None,
    image: str | None = None,
    roles: dict[str, str] | None = None,
    fold: int | None = None,
    drop_copies: bool = False,
    overwrite: bool = False,
) -> None:
    """Writes the manifest of a data set, and beside it a configuration, `.yaml`, for `mvg fit`.

    Every file is read to its end; if one is damaged, all such files are named and nothing is written.

    Args:
        layout: One of nnunet, decathlon, monai, bids, folders, pairs, table, npz.
        folder: The data set: a folder; a JSON file (monai), a CSV file (table) or an NPZ archive (npz).
        output: The manifest, .csv or .parquet.
        split: Shares of the patients for train, val and test; cases whose layout states a split keep it.
        seed: Seed of the division.
        group_pattern: Regular expression whose first bracket finds the patient in the name of a case.
        image: Role that becomes `image`; by default the one that most cases have.
        roles: Role to its folder (folders), name ending (pairs) or column (table).
        fold: Fold that becomes the validation split (monai).
        drop_copies: Leave cases out whose image is also in a later split, instead of refusing them.
        overwrite: Replace files that exist.

    Raises:
        ValueError: If options, layout or files are wrong.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"there is no layout {layout!r}; choose one of {', '.join(LAYOUTS)}")
    config = output.with_suffix(".yaml")
    if existing := [str(path) for path in (output, config) if path.exists() and not overwrite]:
        raise ValueError(f"{' and '.join(existing)} exists already; choose another name or say --overwrite true")
    shares = _shares(split)
    dataset = LAYOUTS[layout](folder, Choice(fold, roles or {}))
    rows = assembly.find_groups(assembly.name_image(dataset.rows, image), group_pattern)
    rows = assembly.decide_splits(rows, shares, seed)
    check_rows(rows, folder)
    rows, faults = assembly.examine(replace(dataset, rows=rows))
    if faults:
        raise ValueError(f"{folder}: {len(faults)} files cannot be used: {'; '.join(faults)}")
    remarks = list(dataset.remarks)
    if drop_copies:
        rows, dropped = assembly.drop_copies(rows)
        remarks += [f"left out {len(dropped)} cases whose image another split holds too: {_some(dropped)}"] * bool(
            dropped
        )
    write_manifest(output, rows)
    _write_config(config, output, dataset)
    for remark in remarks:
        logger.info("%s", remark)
    cases = {row.case: row.split for row in rows}
    counts = ", ".join(f"{sum(found == name for found in cases.values())} {name}" for name in SPLITS)
    logger.info("%s: %d files of %d cases (%s)", output, len(rows), len(cases), counts)
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


def _write_config(path: Path, manifest: Path, dataset: Dataset) -> None:
    """Writes a configuration that makes this the only source."""
    name = re.sub(r"\W", "_", manifest.stem)
    modalities = dict.fromkeys(row.modality for row in dataset.rows if row.modality)
    arguments: dict[str, Any] = {"manifest": str(manifest.absolute()), "name": name}
    if names := {role: dict(classes) for role, classes in dataset.class_names.items() if classes}:
        arguments["class_names"] = names
    if modalities:
        arguments["modality"] = ", ".join(modalities)
    arguments["licence"] = dataset.licence or "unknown"
    source = {"class_path": "mvg.data.ManifestSource", "init_args": arguments}
    text = OmegaConf.to_yaml(OmegaConf.create({"data": {"sources": {name: source}}}))
    write_atomically(path, lambda file: file.write(text.encode()))


def check(manifest: Path, sheet: Path | None = None, slices: str | None = "auto", cache: str | None = None) -> None:
    """Reads the data set of a manifest as training does, describes it in words, and draws a contact sheet.

    Args:
        manifest: The manifest.
        sheet: PNG with cases of every split and their label maps; by default MANIFEST.png.
        slices: How volumes are cut: "axial", "coronal", "sagittal" or "auto" (across the largest spacing).
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


commands: dict[str, Callable[..., None]] = {"prepare": prepare, "check": check}
"""The words after `mvg data`."""
