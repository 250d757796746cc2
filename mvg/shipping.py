"""What an installation ships: a trained folder, small enough, complete, and with terms that let everybody use it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvg.data.synthetic import SyntheticAnatomy
from mvg.files import whole_folder
from mvg.hub import KINDS, SHIPPED, locate
from mvg.models.base import InContextModel
from mvg.weights import CARD, CONFIG, MODEL, build, card, describe, load, read, unshared, write_tensors

LIMIT = 30_000_000
"""Bytes that a shipped folder may have."""
LICENCE = "CC BY-SA 4.0"
"""Terms of shipped weights; share-alike sources ask for them."""
OPEN = re.compile(r"(CC0|public domain|PDDL|CC[- ]BY|MIT|Apache|BSD|ODC[- ]By)\b[- \w.]*", re.IGNORECASE)
"""Licences of data that let everybody use weights trained on them, unless `CLOSED` finds a restriction."""
CLOSED = re.compile(r"\b(NC|ND)\b|non-?commercial|research", re.IGNORECASE)
MOST = 0.05
"""Largest difference of a painted value that half precision may make."""


def ship(
    source: str | Path, kind: str, folder: Path | None = None, half: bool = False, about: Path | None = None
) -> Path:
    """Makes a folder that an installation can ship from one that a run left.

    Args:
        source: The trained folder.
        kind: "2d" or "3d".
        folder: Where it goes; by default where this installation looks for weights of that kind.
        half: Store 16 bits for each number; how much this changes answers is measured and written on the card.
        about: Text, in Markdown, for the end of the card: the compute, the limits, the intended use.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If the trained folder is missing or incomplete, or there is no such text.
        ValueError: If it is of another kind, does not say what trained it or how well it does, its terms forbid that
            everybody uses it, it is too large, or half precision changes its answers too much.
    """
    trained, folder = locate(source), folder or SHIPPED / kind
    words = [about.read_text(encoding="utf-8")] if about else []
    config, network = describe(trained), load(trained)
    check_kind(network, kind)
    check_card(config)
    check_terms(config)
    config = {**config, "licence": LICENCE}
    state = read(trained)
    if half:
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        other = build(config["network"])
        other.load_state_dict(state)
        config["half"] = compare(network, other)
    with whole_folder(folder) as work:
        write_tensors(work / MODEL, unshared(state))
        (work / CONFIG).write_text(json.dumps(config, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        (work / CARD).write_text("\n".join([card(config, network), *_terms(config), *words]), encoding="utf-8")
        size = sum(path.stat().st_size for path in work.iterdir())
        if size > LIMIT:
            advice = (
                "train a narrower network" if half else "store half precision (--half), or train a narrower network"
            )
            raise ValueError(f"shipped weights may have {LIMIT:,} bytes, these have {size:,}; {advice}")
    return folder


def check_kind(network: InContextModel, kind: str) -> None:
    """Checks that a network is for images where "2d" is asked for, and for volumes where "3d" is."""
    if kind not in KINDS:
        raise ValueError(f"weights are shipped for {' and '.join(KINDS)}, got {kind!r}")
    if len(network.image_size) != int(kind[0]):
        raise ValueError(f"{kind} weights are asked for, but the network takes {tuple(network.image_size)}")


def check_card(config: Mapping[str, Any]) -> None:
    """Checks that a description names tasks, sources and at least one validation metric."""
    for name, remedy in {
        "tasks": "ship the folder that a fit left",
        "sources": "ship the folder that a fit left",
        "metrics": "train with validation (`data.val_length`)",
    }.items():
        if not config.get(name):
            raise ValueError(f"the weights state no {name}, which users need to know; {remedy}")


def check_terms(config: Mapping[str, Any]) -> None:
    """Checks that everything that trained the weights, and what they started from, lets everybody use them.

    Raises:
        ValueError: If the licence of one is unknown, or forbids commercial use or changes.
    """
    origin = {"weights made elsewhere": config["origin"]} if "origin" in config else {}
    for name, facts in {**origin, **config.get("inherited", {}), **config["sources"]}.items():
        licence, terms = str(facts.get("licence", "unknown")), str(facts.get("terms") or "")
        stated = facts.get("commercial")
        known = stated is True or (stated is None and not terms and OPEN.fullmatch(licence))
        if not known or CLOSED.search(licence):
            raise ValueError(
                f"{name} ({'; '.join(filter(None, (licence, terms)))}) does not let everybody use weights that it "
                "trained, as far as is known; train without it"
            )


def compare(network: InContextModel, other: InContextModel) -> dict[str, float]:
    """Paints synthetic anatomies with two sets of weights.

    Args:
        network: The network with the weights of the run.
        other: The same with those in half precision.

    Returns:
        The largest and the mean difference of painted values, within [0, 1].

    Raises:
        ValueError: If one differs by more than `MOST`, or is no number.
    """
    differences = torch.stack([(a - b).abs() for a, b in zip(_paint(network), _paint(other), strict=True)])
    found = {"largest": float(differences.max()), "mean": float(differences.mean())}
    if not found["largest"] <= MOST:
        raise ValueError(
            f"half precision changes a painted value by {found['largest']:.3g}, more than {MOST}; leave it"
        )
    return found


def _paint(network: InContextModel) -> list[Tensor]:
    """Paints the first class of a few anatomies after two examples each; values within [0, 1]."""
    source = SyntheticAnatomy(network.image_size, test_anatomies=4, subjects=3)
    painted = []
    for cohort in range(4):
        subjects = [source.read(item) for item in source.items("test", cohort)]
        images = torch.stack([subject.images["modality_a"] for subject in subjects])
        targets = torch.stack([(subject.labels["labels"] == 1).float()[None] for subject in subjects])
        images = images.expand(-1, network.in_channels, *network.image_size)
        targets = targets.expand(-1, network.out_channels, *network.image_size)
        with torch.inference_mode():
            answer = network(images[:1], images[None, 1:], targets[None, 1:])
        painted.append(answer.float().clamp(0, 1))
    return painted


def _terms(config: Mapping[str, Any]) -> list[str]:
    """Lines of the card on the terms of the weights, and on their precision."""
    lines = ["## Terms of these weights", "", f"{LICENCE}. Name the sources above when you pass them on.", ""]
    if "half" in config:
        lines += [
            "Numbers are stored in 16 bits. On synthetic anatomies painted values, in [0, 1], change by "
            f"{config['half']['largest']:.1e} at most and by {config['half']['mean']:.1e} on average.",
            "",
        ]
    return lines
