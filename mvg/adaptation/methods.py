"""Adaptation of a trained network: what is trained, while the rest stays as it is, and how that is kept in files."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

import mvg
from mvg.configuration import from_config
from mvg.files import whole_folder
from mvg.models.base import InContextModel
from mvg.task import Task
from mvg.weights import read_description, unshared, write_tensors

log = logging.getLogger(__name__)

Method = Literal["prompt", "lora", "head", "full"]
ADAPTER, FACTS = "adapter.safetensors", "adapter.json"
FORMAT = 1


@dataclass(frozen=True)
class Adaptation:
    """How a trained network is adapted to a data set.

    Attributes:
        method: "prompt": learned tokens that the network's features attend to; "lora": a low-rank change of linear and
            convolutional layers; "head": what paints, alone; "full": everything.
        rank: Rank of "lora"; no more than a layer has.
        tokens: Learned tokens of "prompt" at each place.
        layers: Regular expression that finds the names of the layers of "lora", such as `attn|mlp`; all by default.

    Raises:
        ValueError: If a value is out of range.
    """

    method: Method = "lora"
    rank: int = 8
    tokens: int = 16
    layers: str | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"`method` must be one of {', '.join(get_args(Method))}, got {self.method!r}")
        if self.rank < 1 or self.tokens < 1:
            raise ValueError(f"`rank` and `tokens` must be at least 1, got {self.rank} and {self.tokens}")
        try:
            re.compile(self.layers or "")
        except re.error as error:
            raise ValueError(f"`layers` is no regular expression ({error}): {self.layers!r}; correct it") from error


class LowRank(nn.Module):
    """A change of low rank to a weight `(rows, *columns)`, at first none; it parametrises the weight of a layer.

    Source: Hu et al., "LoRA", arXiv 2106.09685. The weight itself is changed, not the output, so that one class serves
    linear layers and convolutions of any number of axes, and merging gives the very weight that was trained.

    Args:
        weight: The weight.
        rank: Largest rank.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = len(weight), weight[0].numel()
        rank = min(rank, rows, columns)
        self.down = nn.Parameter(weight.new_empty(rank, columns).normal_(std=1 / math.sqrt(columns)))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the changed weight."""
        return weight + (self.up @ self.down).view(weight.shape).to(weight.dtype)


class PromptTokens(nn.Module):
    """Learned tokens that features attend to; their values are 0 at first, so that nothing is added.

    Source: Li and Liang, "Prefix-Tuning", arXiv 2101.00190, in the parallel form of He et al., arXiv 2110.04366, which
    serves tokens and maps alike.

    Args:
        width: Length of a feature vector.
        number: Number of learned tokens.
        axis: Axis of the features: -1 for tokens `(..., width)`, 1 for maps `(B, width, *S)`.
    """

    def __init__(self, width: int, number: int, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis
        self.keys = nn.Parameter(torch.randn(number, width))
        self.values = nn.Parameter(torch.zeros(number, width))

    def forward(self, x: Tensor) -> Tensor:
        """Adds to features what they read."""
        features = F.layer_norm(x.movedim(self.axis, -1), self.keys.shape[1:])
        scores = features @ self.keys.T / math.sqrt(self.keys.shape[1])
        read: Tensor = scores.softmax(-1).to(self.values.dtype) @ self.values
        return x + read.movedim(-1, self.axis).to(x.dtype)


def _attend(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """Lets the output of a module read the prompts beside it."""
    return cast(Tensor, cast(PromptTokens, module.prompt)(output))


# ---------------------------------------------------------------------- networks


def prepare(network: InContextModel, adaptation: Adaptation) -> None:
    """Freezes a network, in place, but for what a method trains, and adds the new parameters of the method.

    Its outputs stay as they are: what is added is 0 at first.

    Raises:
        ValueError: If the network is adapted already or has no place for the method.
    """
    if any(isinstance(module, LowRank | PromptTokens) for module in network.modules()):
        raise ValueError("the network is adapted already; merge its adapter, or load the base weights again")
    if adaptation.method == "full":
        network.requires_grad_(True)
        return
    for name, module in network.named_modules():
        if isinstance(module, _NormBase) and module.running_mean is not None:
            raise ValueError(
                f"layer {name} keeps running statistics, which training would change in a frozen network; "
                "use the method full"
            )
    network.requires_grad_(False)
    {"lora": _add_low_rank, "prompt": _add_prompts, "head": _free_head}[adaptation.method](network, adaptation)


def _add_low_rank(network: InContextModel, adaptation: Adaptation) -> None:
    chosen = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | _ConvNd) and not parametrize.is_parametrized(module)
    }
    found = [module for name, module in chosen.items() if re.search(adaptation.layers or "", name)]
    if not found:
        raise ValueError(
            f"no linear or convolutional layer of {type(network).__name__} is named like {adaptation.layers!r}; "
            f"it has {', '.join(list(chosen)[:6]) or 'none'}"
        )
    for module in found:
        parametrize.register_parametrization(module, "weight", LowRank(module.weight.detach(), adaptation.rank))


def _add_prompts(network: InContextModel, adaptation: Adaptation) -> None:
    places = network.prompt_places()
    if not places:
        raise ValueError(f"{type(network).__name__} has no place for prompts (`prompt_places`); use lora, head or full")
    for name, (axis, width) in places.items():
        module = network.get_submodule(name)
        device = next(network.parameters()).device
        module.add_module("prompt", PromptTokens(width, adaptation.tokens, axis).to(device))
        module.register_forward_hook(_attend)


def _free_head(network: InContextModel, adaptation: Adaptation) -> None:
    names = network.head_names()
    if not names:
        raise ValueError(f"{type(network).__name__} names no head (`head_names`); use lora or full")
    for name in names:
        network.get_submodule(name).requires_grad_(True)


def changed(network: InContextModel) -> dict[str, Tensor]:
    """Copies what a prepared network trains: its parameters that are not frozen, and all buffers if none is."""
    free = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    frozen = any(not parameter.requires_grad for parameter in network.parameters())
    state = network.state_dict()
    return {name: value.detach().cpu().clone() for name, value in state.items() if name in free or not frozen}


def restore(network: InContextModel, state: Mapping[str, Tensor]) -> None:
    """Fills what a prepared network trains, in place.

    Raises:
        ValueError: If a tensor is missing, foreign, or of another shape.
    """
    own = {name: tuple(value.shape) for name, value in changed(network).items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    for name in sorted(own.keys() | given.keys()):
        if own.get(name) != given.get(name):
            raise ValueError(
                f"the adapter does not fit this network: {name} is {given.get(name, 'missing')} there, "
                f"{own.get(name, 'missing')} in the network"
            )
    network.load_state_dict(dict(state), strict=False)


def merge(network: InContextModel) -> None:
    """Folds low-rank changes into the weights, in place, and thaws the network; prompts stay beside their blocks."""
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            parts = cast(nn.ModuleDict, module.parametrizations)["weight"]
            if isinstance(cast(nn.ModuleList, parts)[0], LowRank):
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    network.requires_grad_(True)


def fingerprint(network: InContextModel) -> str:
    """SHA-256 of all tensors of a network with their names, types and shapes, hexadecimal."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------------- files


def save_adapter(
    folder: str | Path,
    network: InContextModel,
    adaptation: Adaptation,
    base: str,
    state: Mapping[str, Tensor] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Writes what was trained, and what it belongs to; the folder appears whole or not at all.

    Args:
        folder: Where to write; an existing folder is replaced.
        network: The prepared network.
        adaptation: How it was prepared.
        base: Fingerprint of the network before that.
        state: What was trained, if not what the network holds now.
        facts: What else is worth knowing, plain values.

    Returns:
        The folder.
    """
    folder = Path(folder)
    state = unshared({name: value.contiguous() for name, value in (state or changed(network)).items()})
    description = {
        "format": FORMAT,
        "version": mvg.__version__,
        "adaptation": asdict(adaptation),
        "base": {"network": f"{type(network).__module__}.{type(network).__qualname__}", "sha256": base},
        "parameters": sum(value.numel() for value in state.values()),
        **(facts or {}),
    }
    with whole_folder(folder) as work:
        write_tensors(work / ADAPTER, state)
        (work / FACTS).write_text(json.dumps(description, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return folder


def describe_adapter(folder: str | Path) -> dict[str, Any]:
    """Reads what an adapter says of itself.

    Raises:
        FileNotFoundError: If the folder is missing or incomplete.
        ValueError: If its description cannot be read.
    """
    folder = Path(folder)
    for name in (FACTS, ADAPTER):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {name} in {folder}; name the folder that `mvg adapt` wrote")
    facts = read_description(folder / FACTS, FORMAT, "adapt anew")
    try:
        Adaptation(**facts["adaptation"])
        str(facts["base"]["network"] + facts["base"]["sha256"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder / FACTS} is damaged: {error}; copy the folder again") from error
    return facts


def load_adapter(network: InContextModel, folder: str | Path) -> None:
    """Adapts a network, in place, and merges what can be merged.

    Args:
        network: The network, with the weights that the adapter was trained on.
        folder: Folder written by `save_adapter`.

    Raises:
        FileNotFoundError: If the folder is missing or incomplete.
        ValueError: If the adapter is damaged or belongs to another network or to other weights.
    """
    facts = describe_adapter(folder)
    kind = f"{type(network).__module__}.{type(network).__qualname__}"
    if facts["base"]["network"] != kind:
        raise ValueError(
            f"{folder} adapts a {facts['base']['network']}, not a {kind}; name the weights it was made from"
        )
    own = fingerprint(network)
    if facts["base"]["sha256"] != own:
        raise ValueError(
            f"{folder} adapts other weights ({facts['base']['sha256'][:12]}) than these ({own[:12]}); "
            "name the weights it was made from"
        )
    try:
        state = load_file(Path(folder) / ADAPTER)
    except SafetensorError as error:
        raise ValueError(f"{Path(folder) / ADAPTER} is damaged: {error}; copy the folder again") from error
    prepare(network, Adaptation(**facts["adaptation"]))
    restore(network, state)
    merge(network)


def adapted_task(folder: str | Path) -> Task | None:
    """Returns the task that an adapter was trained on, None where it does not say."""
    entry = describe_adapter(folder).get("task")
    return None if entry is None else cast(Task, from_config(entry))
