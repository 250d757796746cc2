"""Networks to folders and back: safetensors and JSON, complete and without pickle."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

import mvg
from mvg.configuration import TRUSTED, from_config, to_config
from mvg.files import whole_folder, write_whole
from mvg.hub import locate
from mvg.hub import shipped as shipped
from mvg.licences import licence_lines
from mvg.models.base import InContextModel
from mvg.task import Task

MODEL, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
FORMAT = 1


def build(config: str | Path | Mapping[str, Any], trusted: Sequence[str] = TRUSTED, **changes: Any) -> InContextModel:
    """Builds an untrained network.

    Args:
        config: A YAML file, or its content: `class_path` and `init_args` of a network.
        trusted: Packages whose classes may be named.
        **changes: Arguments that replace those of the file, such as `image_size`.

    Returns:
        The network, in evaluation mode.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it describes no network.
    """
    if not isinstance(config, Mapping):
        path = Path(config)
        if not path.is_file():
            raise FileNotFoundError(f"no network configuration at {path}; the shipped ones are in configs/network")
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=True)  # type: ignore[assignment]
    if not isinstance(config, Mapping) or "class_path" not in config:
        raise ValueError(f"a network configuration needs the keys `class_path` and `init_args`, got {config!r:.200}")
    entry = {"class_path": config["class_path"], "init_args": {**(config.get("init_args") or {}), **changes}}
    network = from_config(entry, trusted)
    if not isinstance(network, InContextModel):
        start = "; start another from it, by --model.pretrained" if isinstance(network, nn.Module) else ""
        raise ValueError(f"{entry['class_path']} is no network, but a {type(network).__name__}{start}")
    return network.eval()


def load(source: str | Path, trusted: Sequence[str] = TRUSTED) -> InContextModel:
    """Loads a trained network from a folder written by `save`.

    Args:
        source: The folder, `<run>/weights` of a finished fit; or one of its files, or `hub:OWNER/NAME`.
        trusted: Packages whose classes may be named.

    Returns:
        The network, in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: If the folder is missing or incomplete.
        ValueError: If its weights do not fit the network that it describes.
    """
    folder = locate(source)
    network = build(describe(folder)["network"], trusted)
    fill(network, folder)
    return network


def fill(network: InContextModel, source: str | Path) -> None:
    """Fills a network with the weights of a folder written by `save`, in place.

    Raises:
        FileNotFoundError: If the folder is missing or incomplete.
        ValueError: If the weights are damaged or do not fit the network.
    """
    state = read(source)
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in sorted(own.keys() | given.keys()):
        if own.get(name) != given.get(name):
            raise ValueError(
                f"the weights in {source} do not fit this network: {name} is {given.get(name, 'missing')} there, "
                f"{own.get(name, 'missing')} in the network"
            )
    network.load_state_dict(state)


def read(source: str | Path) -> dict[str, torch.Tensor]:
    """Reads the weights of a folder written by `save`, whatever they belong to.

    Raises:
        FileNotFoundError: If the folder is missing or incomplete.
        ValueError: If the weights are damaged.
    """
    folder = locate(source)
    describe(folder)
    try:
        return load_file(folder / MODEL)
    except SafetensorError as error:
        raise ValueError(f"{folder / MODEL} is damaged: {error}; copy the folder again") from error


def load_tasks(source: str | Path, trusted: Sequence[str] = TRUSTED) -> dict[str, Task]:
    """Loads the tasks that a network was trained on, by name."""
    return {name: from_config(entry, trusted) for name, entry in describe(source)["tasks"].items()}


def load_aspect(source: str | Path) -> str:
    """Returns how images were brought to size in training: "stretch", "pad" or "crop"; "stretch" if no source says."""
    found = (facts["aspect"] for facts in describe(source).get("sources", {}).values() if "aspect" in facts)
    return str(next(found, "stretch"))


def describe(source: str | Path) -> dict[str, Any]:
    """Reads what a folder says of itself: network, tasks, sources and their licences, version.

    Raises:
        FileNotFoundError: If the folder is missing or incomplete.
        ValueError: If its description cannot be read.
    """
    folder = locate(source)
    for name in (CONFIG, MODEL):
        if not (folder / name).is_file():
            is_name = re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(source))
            hint = f"; on the Hugging Face hub it would be hub:{source}" if is_name else ""
            raise FileNotFoundError(f"no {name} in {folder}; name the folder `<run>/weights` that a fit leaves{hint}")
    config = read_description(folder / CONFIG, FORMAT, "save it anew")
    lacking = [name for name in ("network", "tasks") if not isinstance(config.get(name), dict)]
    if lacking:
        raise ValueError(f"{folder / CONFIG} is damaged: it lacks `{lacking[0]}`; copy the folder again")
    return config


def read_description(path: Path, version: int, remedy: str) -> dict[str, Any]:
    """Reads the JSON file by which a folder says what it is.

    Args:
        path: The file.
        version: The `format` that is read.
        remedy: What helps an older folder.

    Raises:
        ValueError: If it is damaged, or of another format.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; copy the folder again") from error
    found = facts.get("format") if isinstance(facts, dict) else None
    if found is None:
        raise ValueError(f"{path} is damaged: it states no format; copy the folder again")
    if found != version:
        raise ValueError(f"{path.parent} has format {found}, this version reads {version}; update mvg, or {remedy}")
    return dict(facts)


def save(
    folder: str | Path,
    network: nn.Module,
    tasks: Mapping[str, Task] | None = None,
    sources: Mapping[str, Mapping[str, Any]] | None = None,
    metrics: Mapping[str, float] | None = None,
    origin: Mapping[str, Any] | None = None,
    inherited: Mapping[str, Mapping[str, Any]] | None = None,
    state: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Writes a network with all that is needed to use it; the folder appears whole or not at all.

    Args:
        folder: Where to write; an existing folder is replaced.
        network: The network, or an encoder to start one from.
        tasks: The tasks it was trained on.
        sources: For each data source, its licence and what else is worth knowing.
        metrics: Validation metrics, for the model card; those that are undefined are left out.
        origin: Where the weights come from, if they were made elsewhere: "origin", "licence", "commercial" and more.
        inherited: For each source of the weights it started from, its licence; see `mvg.licences.inheritance`.
        state: Its weights, if they are others than it holds.

    Returns:
        The folder.
    """
    folder = Path(folder)
    config = {
        "format": FORMAT,
        "version": mvg.__version__,
        "network": to_config(network),
        "tasks": {name: to_config(task) for name, task in (tasks or {}).items()},
        "sources": {name: dict(facts) for name, facts in (sources or {}).items()},
        "metrics": {name: value for name, value in (metrics or {}).items() if math.isfinite(value)},
        **({"origin": dict(origin)} if origin else {}),
        **({"inherited": {name: dict(facts) for name, facts in inherited.items()}} if inherited else {}),
    }
    state = network.state_dict() if state is None else state
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with whole_folder(folder) as work:
        write_tensors(work / MODEL, unshared(state))
        (work / CONFIG).write_text(json.dumps(config, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        (work / CARD).write_text(card(config, network), encoding="utf-8")
    return folder


def write_tensors(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Writes safetensors that others may read as any new file of the user; the library's are for the user alone."""
    path.touch()
    mode = path.stat().st_mode
    save_file(state, path)
    path.chmod(mode)


def note_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Writes validation metrics into a saved folder and onto its card, in place of those that it states.

    Args:
        folder: Written by `save`.
        metrics: By name; those that are undefined are left out.
    """
    config = describe(folder)
    config["metrics"] = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
    with torch.device("meta"):
        text = card(config, from_config(config["network"]))
    described = json.dumps(config, indent=2, allow_nan=False) + "\n"
    write_whole({folder / CONFIG: described.encode(), folder / CARD: text.encode()})


def unshared(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies tensors that share memory or are not contiguous, which safetensors refuses to write."""
    seen: set[int] = set()
    result = {}
    for name, tensor in state.items():
        shared = tensor.data_ptr() in seen
        result[name] = tensor.clone(memory_format=torch.contiguous_format) if shared else tensor.contiguous()
        seen.add(tensor.data_ptr())
    return result


def card(config: Mapping[str, Any], network: nn.Module) -> str:
    """Writes the model card of a saved folder, in Markdown."""
    count = sum(parameter.numel() for parameter in network.parameters())
    origin = [f"- {name}: {value}" for name, value in config.get("origin", {}).items()]
    lines = [
        "# In-context image-to-image model",
        "",
        f"`{config['network']['class_path']}`, {count:,} parameters, "
        f"images of {tuple(config['network']['init_args']['image_size'])}, written by mvg {config['version']}.",
        "",
        *(["## Weights made elsewhere", "", *origin, ""] if origin else []),
        "## Tasks it was trained on",
        "",
        *[f"- `{name}`: `{entry['class_path']}`" for name, entry in config["tasks"].items()],
        "",
        "## Training sources and their licences",
        "",
        "The weights inherit the terms of what they were trained on.",
        "",
        *licence_lines(config),
        "",
        "## Validation",
        "",
        *[f"- {name}: {value:.4f}" for name, value in config["metrics"].items()],
        "",
        "Not a medical device: for research only.",
        "",
    ]
    return "\n".join(lines)
