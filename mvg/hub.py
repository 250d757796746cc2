"""Where trained folders lie: on disk, or on the Hugging Face hub where that is asked for by name."""

from __future__ import annotations

import os
from pathlib import Path

FILES = ("model.safetensors", "config.json", "README.md")
"""What a trained folder consists of, and all that is ever fetched."""

KINDS = ("2d", "3d")
"""Kinds of weights that an installation may ship: for images, and for volumes."""

SHIPPED = Path(__file__).parent / "pretrained"
"""Where an installation has the weights that it ships, a folder for each kind."""

PREFIX = "hub:"
"""What a name of the hub begins with, so that a mistyped folder is never looked for in the network."""

OWN = "shipped:"
"""What the name of a kind of shipped weights begins with."""


def locate(source: str | Path) -> Path:
    """Finds a trained folder.

    Args:
        source: The folder, one of its files, `shipped:2d` or `shipped:3d` for what came with the installation, or
            `hub:OWNER/NAME` or `hub:OWNER/NAME@REVISION` on the Hugging Face hub, of which safetensors and JSON are
            fetched, once. With `--offline` or `HF_HUB_OFFLINE=1` nothing is, and what was fetched before is used.

    Returns:
        The folder; it may lack files.

    Raises:
        FileNotFoundError: If the hub has no such folder, or cannot be reached and was not fetched from before; or the
            installation ships no such weights.
        ValueError: If a file is named that is no part of a trained folder, or no name follows `hub:`.
    """
    if str(source).startswith(PREFIX):
        return _fetch(str(source)[len(PREFIX) :])
    if str(source).startswith(OWN):
        return shipped(str(source)[len(OWN) :])
    path = Path(source)
    if not path.is_file():
        return path
    if path.name not in FILES:
        raise ValueError(
            f"{path} is no part of a trained folder; convert weights that other code wrote by `mvg weights convert`"
        )
    return path.parent


def shipped(kind: str) -> Path:
    """Finds the weights that came with the installation.

    Args:
        kind: "2d", for images and slices, or "3d", for volumes.

    Returns:
        Their folder.

    Raises:
        FileNotFoundError: If it came without any of that kind.
        ValueError: If there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"weights are shipped for {' and '.join(KINDS)}, got {kind!r}")
    folder = SHIPPED / kind
    if not all((folder / name).is_file() for name in FILES):
        raise FileNotFoundError(
            f"this installation ships no weights of the kind {kind}; name some with --weights, or train some, as by "
            f"`mvg fit --config configs/pretrain_{kind}.yaml`"
        )
    return folder


def _fetch(name: str) -> Path:
    """Fetches a folder from the hub, or takes what was fetched before."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    if repository.count("/") != 1:
        raise ValueError(f"write hub:OWNER/NAME or hub:OWNER/NAME@REVISION, got {PREFIX}{name}")
    try:
        found = snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES))
    except HFValidationError as error:
        raise ValueError(f"{PREFIX}{name} is no name of the hub: {error}") from error
    except LocalEntryNotFoundError as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
        why = "--offline or HF_HUB_OFFLINE forbids it" if offline else "the hub cannot be reached"
        raise FileNotFoundError(
            f"{PREFIX}{name} was not fetched before, and {why}; fetch it where there is a network, or name a folder"
        ) from error
    except HfHubHTTPError as error:
        raise FileNotFoundError(f"the hub does not give {PREFIX}{name}: {error!s:.200}") from error
    return Path(found)
