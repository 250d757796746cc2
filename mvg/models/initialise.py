"""Starting weights: a folder of our own, or a plain vision transformer."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from mvg.models.base import InContextModel

log = logging.getLogger(__name__)


def initialise(network: InContextModel, pretrained: str | None = None, weights: str | None = None) -> None:
    """Fills a network with starting weights, in place.

    Args:
        network: The network.
        pretrained: Name of a plain timm ViT, whose weights are downloaded, or a file of ViT weights (`.safetensors`, or
            `.pth` without pickled objects), with timm's or MAE's parameter names.
        weights: Folder written by `mvg.weights.save`; every tensor must fit.

    Raises:
        FileNotFoundError: If a file or folder is missing.
        ValueError: If width or depth differ.
    """
    if weights:
        from mvg.weights import MODEL, describe

        describe(weights)
        try:
            network.load_state_dict(load_file(Path(weights) / MODEL))
        except RuntimeError as error:
            raise ValueError(f"the weights in {weights} do not fit this network: {str(error).splitlines()[1]}") from error
    if pretrained:
        load_vit(network, read_vit(pretrained))


def read_vit(name: str) -> dict[str, Tensor]:
    """Reads the state dictionary of a plain ViT by timm name or from a file."""
    path = Path(name)
    if path.suffix == ".safetensors" or path.suffix in (".pth", ".pt", ".bin"):
        if not path.is_file():
            raise FileNotFoundError(f"no weights at {path}; give a local file or the name of a timm ViT")
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        return dict(state.get("model", state.get("state_dict", state)))
    import timm

    if not timm.is_model(name):
        close = timm.list_models(f"*{name}*")[:5] or timm.list_models("vit_*patch16_224*")[:5]
        raise ValueError(f"timm knows no model {name!r}; it knows {', '.join(close)}, or give a file of weights")
    return dict(timm.create_model(name, pretrained=True).state_dict())


def load_vit(network: InContextModel, state: dict[str, Tensor]) -> None:
    """Copies blocks, patch embedding and absolute positions of a plain ViT into a CanvasViT.

    Blocks must agree in width and depth. The patch embedding is resampled to the stem's patch and channels (summed over
    channels for grey images); a convolutional stem and all heads keep their random start.
    """
    own = network.state_dict()
    taken = {name: value for name, value in state.items() if name.startswith("blocks.") and name in own}
    wanted = {name for name in own if name.startswith("blocks.") and ".tables." not in name}
    if not taken:
        raise ValueError("these weights hold no transformer blocks named `blocks.<i>.attn.qkv`; give those of a plain ViT")
    if wanted - set(taken):
        raise ValueError(f"these weights lack {sorted(wanted - set(taken))[0]}; set `depth` to theirs")
    wrong = next((name for name in taken if taken[name].shape != own[name].shape), None)
    if wrong:
        raise ValueError(
            f"{wrong} has shape {tuple(taken[wrong].shape)} in these weights, {tuple(own[wrong].shape)} in the network; "
            "set `width`, `heads` and `mlp_ratio` to theirs"
        )
    taken |= _embedding(own, state)
    network.load_state_dict(taken, strict=False)
    log.info("%d of %d tensors start from the pretrained transformer", len(taken), len(own))


def _embedding(own: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Patch embedding and absolute positions, where the network has their like."""
    from timm.layers import resample_patch_embed
    from timm.models import adapt_input_conv

    taken = {}
    kernel = state.get("patch_embed.proj.weight")
    for part in ("image", "label"):
        name = f"stem.embed_{part}.weight"
        if kernel is not None and name in own and own[name].ndim == kernel.ndim:
            fitted = adapt_input_conv(own[name].shape[1], kernel)
            taken[name] = resample_patch_embed(fitted, list(own[name].shape[2:]))
            taken[f"stem.embed_{part}.bias"] = state["patch_embed.proj.bias"]
    position = state.get("pos_embed")
    if position is not None and "absolute" in own and position.shape == own["absolute"].shape:
        taken["absolute"] = position
    return taken
