"""Weights that other code wrote: read without running what they hold, checked, and written as a folder of ours."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mvg.configuration import from_config
from mvg.models.foreign import listed
from mvg.weights import save

Converted = tuple[dict[str, Any], dict[str, Tensor]]
"""Configuration of a network, `class_path` and `init_args`, and the state dictionary that fits it."""


@dataclass(frozen=True)
class Format:
    """Weights of one kind.

    Attributes:
        function: Import path of the function that converts a state dictionary.
        origin: Where such weights are published.
        licence: Their terms, as far as they are known.
        paper: Where the network is described.
        commercial: Whether they may be used commercially; None where nothing is stated.
    """

    function: str
    origin: str
    licence: str
    paper: str
    commercial: bool | None = None

    def convert(self, state: Mapping[str, Tensor]) -> Converted:
        """Converts a state dictionary.

        Raises:
            ValueError: If names or shapes are not those of the format.
        """
        module, _, name = self.function.rpartition(".")
        converted: Converted = getattr(importlib.import_module(module), name)(state)
        return converted


FORMATS = {
    "mae": Format(
        "mvg.models.mae_import.convert",
        "https://github.com/facebookresearch/mae",
        "CC-BY-NC-4.0",
        "He et al., arXiv 2111.06377",
        False,
    ),
    "medverse": Format(
        "mvg.models.medverse_import.from_medverse",
        "https://github.com/jiesihu/Medverse",
        "none stated (the code has no licence): for comparison alone",
        "Hu et al., arXiv 2509.09232",
    ),
    "mvg": Format(
        "mvg.models.painter_import.convert_mvg",
        "https://github.com/OliverRensu/MVG",
        "none stated (the code has no licence, and no weights are published): ask who trained them",
        "Ren et al., arXiv 2406.05565",
    ),
    "neuroverse3d": Format(
        "mvg.models.medverse_import.from_neuroverse3d",
        "https://github.com/jiesihu/Neuroverse3D",
        "MIT for the code; none stated for the weights",
        "Hu et al., arXiv 2503.02410",
    ),
    "painter": Format(
        "mvg.models.painter_import.convert_painter",
        "https://huggingface.co/BAAI/Painter",
        "MIT",
        "Wang et al., arXiv 2212.02499",
        True,
    ),
    "seggpt": Format(
        "mvg.models.painter_import.convert_seggpt",
        "https://huggingface.co/BAAI/SegGPT",
        "MIT",
        "Wang et al., arXiv 2304.03284",
        True,
    ),
    "universeg": Format(
        "mvg.models.universeg_import.convert",
        "https://github.com/JJGO/UniverSeg",
        "OpenRAIL++-M, research use only",
        "Butoi et al., arXiv 2304.06131",
        False,
    ),
}
"""Formats that can be converted, by name."""


def convert(source: str | Path, folder: str | Path, format: str, sha256: str | None = None) -> Path:
    """Converts a file of weights to a folder that `mvg.load` opens.

    Args:
        source: A state dictionary: `.safetensors`, or what `torch.save` wrote (nothing in it is run).
        folder: Where to write; an existing folder is replaced.
        format: Who wrote it, one of `FORMATS`.
        sha256: What the file must hash to, in hexadecimal; not compared if None.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the format is unknown, the hash differs, the file is damaged or holds more than weights, or a
            name or shape is not that of the format.
    """
    if format not in FORMATS:
        raise ValueError(f"there is no format {format!r}; choose one of {', '.join(FORMATS)}")
    path, known = Path(source), FORMATS[format]
    found = fingerprint(path)
    if sha256 is not None and found != sha256.lower().removeprefix("sha256:"):
        raise ValueError(f"{path.name} hashes to {found}, not to {sha256}; download it again, or correct the hash")
    config, state = known.convert(read_state(path))
    network = from_config(config)
    network.load_state_dict(state)
    origin: dict[str, Any] = {"format": format, "origin": known.origin, "licence": known.licence, "paper": known.paper}
    origin |= {"sha256": found} if known.commercial is None else {"sha256": found, "commercial": known.commercial}
    return save(folder, network.eval(), origin=origin)


def fingerprint(path: Path) -> str:
    """Hashes a file by SHA-256.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; download the weights first, nothing is fetched here")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state(path: Path) -> dict[str, Tensor]:
    """Reads a state dictionary, also from under `model` or `state_dict` in a checkpoint; floats come as float32.

    Raises:
        ValueError: If the file is damaged, holds more than tensors and plain values, or tensors that are not finite.
    """
    state: Any = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for key in ("model", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
            break
    strangers = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if strangers or not state:
        what = f"more than tensors: {listed(strangers)}" if strangers else "no tensors"
        raise ValueError(f"{path.name} holds {what}; give the file of the network's weights alone")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return {name: _plain(name, value) for name, value in state.items()}


def _plain(name: str, value: Tensor) -> Tensor:
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(f"{name} claims {tuple(value.shape)} values but stores fewer; the file is not to be trusted")
    if not value.is_floating_point():
        return value
    if not torch.isfinite(value).all():
        raise ValueError(f"{name} holds values that are not finite; the weights are damaged")
    return value.float()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"{path.name} is damaged: {error}; download it again") from error


def _read_torch(path: Path) -> Mapping[str, Any]:
    """Reads what `torch.save` wrote, with tensors, plain values and the options of argparse alone."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError(f"{path.name} is a compressed archive, which torch.save never writes; unpack it")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(path, "cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path.name} is damaged, or holds more than weights, which is not run: {error!s:.200}"
        ) from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{path.name} holds a {type(state).__name__}, not a state dictionary")
    return state
