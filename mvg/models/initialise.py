"""Starting weights: a folder of our own, or a plain vision transformer."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers.patch_embed import resample_patch_embed
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from mvg.models.base import InContextModel
from mvg.models.inflate import inflate, is_flat
from mvg.weights import describe, fill, read

log = logging.getLogger(__name__)

FILES = (".safetensors", ".pth", ".pt", ".bin")
"""Endings of files of weights."""


def initialise(network: InContextModel, pretrained: str | None = None, weights: str | None = None) -> None:
    """Fills a network with starting weights, in place.

    Args:
        network: The network.
        pretrained: Name of a plain timm ViT, whose weights are downloaded, or a file of ViT weights (`.safetensors`, or
            `.pth` without pickled objects) or a converted folder, with timm's or MAE's parameter names.
        weights: Folder written by `mvg.weights.save`; every tensor must fit, unless the network is for volumes and the
            weights are for pictures: then they are inflated.

    Raises:
        FileNotFoundError: If a file or folder is missing.
        ValueError: If the weights do not fit the network.
    """
    if weights and is_flat(network, weights):
        inflate(network, read(weights))
    elif weights:
        fill(network, weights)
    if pretrained:
        load_vit(network, read_vit(pretrained))


def check_start(pretrained: str | None = None, weights: str | None = None) -> None:
    """Checks that starting weights exist, before a run begins; a timm name is checked against timm's list.

    Raises:
        FileNotFoundError: If a file or folder is missing.
        ValueError: If both are given, or timm knows no such model.
    """
    if pretrained and weights:
        raise ValueError("start from `pretrained` or from `weights`, not from both")
    if weights:
        describe(weights)
    if pretrained and Path(pretrained).is_dir():
        describe(pretrained)
    elif pretrained and Path(pretrained).suffix in FILES:
        if not Path(pretrained).is_file():
            raise FileNotFoundError(f"no weights at {pretrained}; give a local file or the name of a timm ViT")
    elif pretrained and not timm.is_model(pretrained):
        close = timm.list_models(f"*{pretrained}*")[:5] or timm.list_models("vit_*patch16_224*")[:5]
        raise ValueError(f"timm knows no model {pretrained!r}; it knows {', '.join(close)}, or give a file of weights")


def read_vit(name: str) -> dict[str, Tensor]:
    """Reads the state dictionary of a plain ViT by timm name or from a file."""
    check_start(name)
    path = Path(name)
    if path.is_dir():
        return read(path)
    if path.suffix in FILES:
        try:
            state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"{path} is damaged, or holds more than weights: {error!s:.200}") from error
        return dict(state.get("model", state.get("state_dict", state)))
    return dict(timm.create_model(name, pretrained=True).state_dict())


def load_vit(network: InContextModel, state: Mapping[str, Tensor]) -> None:
    """Copies blocks, patch embedding and absolute positions of a plain ViT into a CanvasViT.

    Blocks must agree in width and depth, and have no other parts. The patch embedding is resampled to the stem's patch
    and channels (summed over channels for grey images), absolute positions to the network's grid; a convolutional
    stem, relative positions and all heads keep their random start.

    Args:
        network: The network.
        state: Weights with timm's names. Heads cannot be told from weights: set `heads` to theirs.

    Raises:
        ValueError: If the blocks differ.
    """
    own = network.state_dict()
    blocks = {name: value for name, value in state.items() if name.startswith("blocks.")}
    _check_blocks({name: value for name, value in own.items() if name.startswith("blocks.")}, blocks)
    taken = blocks | _embedding(own, state, len(network.image_size))
    network.load_state_dict(taken, strict=False)
    log.info("%d of %d tensors start from the pretrained transformer", len(taken), len(own))


def _check_blocks(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Checks that blocks agree in number, parts and shapes; tables of relative positions may be missing."""
    if not given:
        raise ValueError(
            "these weights hold no transformer blocks named `blocks.<i>.attn.qkv`; give those of a plain ViT"
        )
    depths = [1 + max((int(name.split(".")[1]) for name in names), default=-1) for names in (given, own)]
    if depths[0] != depths[1]:
        raise ValueError(f"these weights have {depths[0]} blocks, the network {depths[1]}; set `depth` to theirs")
    missing = sorted(name for name in own.keys() - given.keys() if ".tables." not in name)
    foreign = sorted(given.keys() - own.keys())
    if missing or foreign:
        fault = f"lack {missing[0]}" if missing else f"hold {foreign[0]}, for which the network has no place"
        raise ValueError(f"these weights {fault}; give those of a plain ViT, without layer scale or other additions")
    wrong = next((name for name in given if given[name].shape != own[name].shape), None)
    if wrong:
        raise ValueError(
            f"{wrong} has shape {tuple(given[wrong].shape)} in these weights, {tuple(own[wrong].shape)} in the "
            "network; set `width`, `heads` and `mlp_ratio` to theirs"
        )


def _embedding(own: Mapping[str, Tensor], state: Mapping[str, Tensor], dims: int) -> dict[str, Tensor]:
    """Patch embedding and absolute positions, where a network of `dims` axes has their like."""
    taken = {}
    kernel = state.get("patch_embed.proj.weight")
    for part in ("image", "label"):
        name = f"stem.embed_{part}.weight"
        if kernel is not None and name in own and own[name].ndim == 2 + dims:
            fitted = _fit_channels(kernel.float(), own[name].shape[1])
            flat = resample_patch_embed(fitted, list(own[name].shape[-2:]))
            taken[name] = flat if dims == 2 else (flat[:, :, None] / own[name].shape[2]).expand_as(own[name]).clone()
            taken[f"stem.embed_{part}.bias"] = state["patch_embed.proj.bias"]
    position = state.get("pos_embed")
    if position is not None and "absolute" in own and dims == 2:
        taken["absolute"] = _fit_position(position.float(), math.isqrt(own["absolute"].shape[1] - 1))
    return taken


def _fit_channels(kernel: Tensor, channels: int) -> Tensor:
    """Fits a patch embedding `(width, c, p, p)` to other channels, so that equal channels give the same tokens."""
    given = kernel.shape[1]
    if channels == 1:
        return kernel.sum(1, keepdim=True)
    return kernel[:, torch.arange(channels) % given] * (given / channels)


def _fit_position(position: Tensor, side: int) -> Tensor:
    """Resizes absolute positions `(1, prefix + n * n, width)` to one prefix and `side * side`."""
    given = math.isqrt(position.shape[1])
    prefix = position.shape[1] - given**2
    resized = resample_abs_pos_embed(position[:, prefix:], [side, side], num_prefix_tokens=0)
    first = position[:, :1] if prefix else torch.zeros_like(position[:, :1])
    return torch.cat([first, resized], 1)
