"""The command `mvg weights`: weights of others become folders of ours, folders say what they are, and are shipped."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mvg.configuration import from_config
from mvg.conversion import FORMATS, convert, fingerprint
from mvg.hub import KINDS, locate
from mvg.shipping import LICENCE, ship
from mvg.weights import MODEL, describe

log = logging.getLogger(__name__)


def weights(args: Sequence[str]) -> None:
    """Converts weights that other code wrote, shows what a trained folder is, or makes one that can be shipped."""
    options = _parser().parse_args(args)
    if options.word == "show":
        sys.stdout.write("\n".join([*facts(options.folder), ""]))
        return
    if options.word == "ship":
        folder = ship(options.source, options.kind, options.output, options.half, options.about)
        size = sum(path.stat().st_size for path in folder.iterdir())
        log.info("%s weights to be shipped are in %s, %s bytes, %s", options.kind, folder, f"{size:,}", LICENCE)
        return
    if options.folder.exists() and not options.overwrite:
        raise ValueError(f"{options.folder} exists; name another folder, or add --overwrite to replace it")
    folder = convert(options.source, options.folder, options.format, options.sha256)
    log.info("Weights written to %s. Their terms: %s", folder, FORMATS[options.format].licence)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("mvg weights", description=weights.__doc__, exit_on_error=False)
    words = parser.add_subparsers(dest="word", metavar="convert|show|ship", required=True)
    text = "Converts a downloaded state dictionary; nothing in it is run, every name and shape is checked."
    one = words.add_parser("convert", help=text, description=text, exit_on_error=False)
    one.add_argument("source", metavar="SOURCE", type=Path, help="The file: .safetensors, or written by torch.save.")
    one.add_argument("folder", metavar="FOLDER", type=Path, help="Where the weights go; `mvg.load` opens it.")
    one.add_argument("--format", required=True, choices=FORMATS, help="Whose code wrote it.")
    one.add_argument("--sha256", help="What the file must hash to, in hexadecimal.")
    one.add_argument("--overwrite", action="store_true", help="Replace the folder if it exists.")
    text = "Says what a trained folder holds: network, tasks, sources, licences, metrics."
    other = words.add_parser("show", help=text, description=text, exit_on_error=False)
    other.add_argument("folder", metavar="FOLDER", help="<run>/weights, or hub:OWNER/NAME.")
    text = "Checks terms, card and size of a trained folder, and makes of it what an installation ships."
    third = words.add_parser("ship", help=text, description=text, exit_on_error=False)
    third.add_argument("source", metavar="SOURCE", help="<run>/weights, or a milestone of the run.")
    third.add_argument("--kind", required=True, choices=KINDS, help="2d for images and slices, 3d for volumes.")
    third.add_argument("--half", action="store_true", help="Store 16 bits a number, and measure what that changes.")
    third.add_argument("--about", type=Path, help="Text for the end of the card: compute, limits, intended use.")
    third.add_argument("--output", type=Path, help="Folder; by default that of this installation.")
    return parser


def facts(source: str | Path) -> list[str]:
    """Describes a trained folder in lines of text.

    Raises:
        FileNotFoundError: If the folder is missing or incomplete.
        ValueError: If its description cannot be read.
    """
    folder = locate(source)
    config = describe(folder)
    with torch.device("meta"):
        network = from_config(config["network"])
    count = sum(parameter.numel() for parameter in network.parameters())
    known: dict[str, Any] = {
        "network": config["network"]["class_path"],
        "parameters": f"{count:,}",
        "images": "x".join(map(str, network.image_size)),
        "channels": f"{network.in_channels} in, {getattr(network, 'out_channels', 0)} out",
        "written by": f"mvg {config.get('version', 'of unknown version')}",
        "sha256": fingerprint(folder / MODEL),
        **{name: value for name, value in config.get("origin", {}).items() if name != "sha256"},
    }
    lines = [f"{name:<12}{value}" for name, value in known.items()]
    parts = {
        "tasks": {name: task["class_path"] for name, task in config["tasks"].items()},
        "sources": {name: _source(facts) for name, facts in config.get("sources", {}).items()},
        "metrics": {name: f"{value:.4f}" for name, value in config.get("metrics", {}).items()},
    }
    for title, part in parts.items():
        lines += ["", f"{title}:", *(f"  {name}: {value}" for name, value in part.items())]
        lines += [] if part else ["  none stated"]
    return lines


def _source(facts: dict[str, Any]) -> str:
    modality = facts.get("modality")
    return f"licence {facts.get('licence', 'unknown')}" + (f", {modality}" if modality else "")
