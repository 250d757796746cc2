"""From a recipe to a configuration for `mvg fit`, and to the page that describes all recipes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mvg.configuration import to_config
from mvg.data.datasets.card import PublicSet, Unread
from mvg.data.importers.dataset import Dataset
from mvg.data.intensity import Intensity, Percentiles, Window

_HEAD = """# Public data sets

Written by `mvg data datasets --output docs/datasets.md`; edit the recipes in `mvg/data/datasets`, not this page.
From a downloaded folder to training:

```bash
mvg data prepare --dataset amos-ct --folder /data/amos22 --output amos.csv
mvg fit --config configs/my_scans.yaml --config amos.yaml
```

A recipe does not download. It finds its files in the folder of the archive, or in one above it. Every file is read to
its end; missing and damaged ones are named. Label maps and volumes that have to be made (joined masks, boxes, DICOM
series) go to a folder beside the manifest.

- *licence*, *commercial*: the project's reading, no legal advice; *check* means not stated, or not checked by us. The
  licence goes into the model card of weights that are trained on the set.
- *layout*: whether names of files and folders were read at the data set itself or in code that reads it.
- *checked*, below: what was compared with which page. A licence counts as checked only if it was read in the data
  set's own words; what others say of it does not make it so.
- *run on*: generated trees repeat the names and quirks of the files, not their content.

| name | data set | modality | tasks | MVG paper, train / test | licence | commercial | layout | run on |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |""".splitlines()
_USE = {True: "yes", False: "no", None: "check"}


def shares_of(public: PublicSet, found: Dataset) -> dict[str, float]:
    """Returns the shares of the patients whose split the layout leaves open.

    A split that the layout states for some cases is complete: nothing is added to it.
    """
    shares = dict(zip(("train", "val", "test"), public.shares, strict=True))
    stated = {row.split for row in found.rows} & {"val", "test"}
    kept = {name: 0.0 if name in stated else share for name, share in shares.items()}
    return {name: share / sum(kept.values()) for name, share in kept.items()}


def source_arguments(public: PublicSet) -> dict[str, Any]:
    """Returns the arguments of `ManifestSource` that a recipe knows, as plain values."""
    arguments: dict[str, Any] = {
        "modality": public.modality,
        "licence": public.terms.licence + ("" if public.terms.checked else " (to be checked)"),
        "terms": public.terms.weights,
        "commercial": public.terms.permission,
        "slices": public.slices,
    }
    if public.intensity:
        arguments["intensity"] = {role: to_config(rule) for role, rule in public.intensity.items()}
    for name in ("longest", "reference"):
        if getattr(public, name) is not None:
            arguments[name] = getattr(public, name)
    return arguments


def data_options(public: PublicSet) -> dict[str, Any]:
    """Returns the tasks that a recipe serves, and how often each is asked, as options of the data module."""
    return {"tasks": {name: dict(task) for name, task in public.tasks.items()}, "weights": None}


def table(sets: Iterable[PublicSet]) -> list[str]:
    """Returns lines that list recipes, for a terminal."""
    rows = [("name", "data set", "modality", "tasks", "licence", "commercial use")]
    rows += [(s.name, s.title, s.modality, ", ".join(s.tasks), s.terms.licence, _USE[s.terms.permission]) for s in sets]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def describe(public: PublicSet) -> list[str]:
    """Returns lines that say everything about one recipe, in Markdown."""
    terms = public.terms
    checked = "" if terms.checked else ", not checked against the data set's own words"
    facts = {
        "from": public.homepage,
        "licence": f"{terms.licence}{checked}; commercial use: {_USE[terms.permission]}; weights: {terms.weights}",
        "modality": public.modality,
        "spacing": public.spacing,
        "files": ", ".join(f"`{words}`" for words in public.tree.words),
        "layout known from": public.tree.source,
        "split": public.split,
        "labels": "; ".join(_labels(public.class_names)) or "as the files are named",
        "intensity": "; ".join(f"{role}: {_rule(rule)}" for role, rule in public.intensity.items())
        or ("full scale of the pictures" if public.longest else "percentiles of each volume"),
        "tasks": ", ".join(public.tasks),
        "notes": public.notes,
        "checked": public.checked,
        "run on": public.real or "a generated tree only",
    }
    return [
        f"### {public.name}",
        "",
        public.title,
        "",
        *(f"- {key}: {text}" for key, text in facts.items() if text),
        "",
    ]


def _labels(names: Mapping[str, Mapping[int, str]]) -> list[str]:
    return [
        f"{role}: " + ", ".join(f"{index} {name}" for index, name in classes.items()) for role, classes in names.items()
    ]


def _rule(rule: Intensity) -> str:
    if isinstance(rule, Window):
        return f"{rule.low:g} to {rule.high:g}"
    return "percentiles of each volume" if isinstance(rule, Percentiles) else type(rule).__name__


def page(sets: Sequence[PublicSet], unread: Sequence[Unread]) -> str:
    """Returns the page that describes all recipes, in Markdown."""
    lines = [
        *_HEAD,
        *(_line(public) for public in sets),
        "",
        "## Without a recipe",
        "",
        "| data set | where | why |",
        "| --- | --- | --- |",
        *(f"| {entry.name} | {entry.homepage} | {entry.reason} |" for entry in unread),
        "",
        "## In full",
        "",
    ]
    return "\n".join([*lines, *(line for public in sets for line in describe(public))]).rstrip() + "\n"


def _line(public: PublicSet) -> str:
    counts = " / ".join(f"{count:,}" for count in public.benchmark) if public.benchmark else ""
    licence = public.terms.licence + ("" if public.terms.checked else " (not checked)")
    cells = (
        f"[{public.name}](#{public.name})",
        public.title,
        public.modality,
        ", ".join(public.tasks),
        counts,
        licence,
        _USE[public.terms.permission],
        "known" if public.tree.sure else "partly inferred",
        public.real or "generated tree",
    )
    return f"| {' | '.join(cells)} |"
