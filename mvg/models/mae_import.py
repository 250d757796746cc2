"""State dictionaries of the public MAE code as configuration and weights of a plain encoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mvg.models.foreign import check_names, count_blocks, find
from mvg.models.painter_import import block_shapes

HEADS = {768: 12, 1024: 16, 1280: 16}
"""Attention heads of the published sizes, by width; others have one for every 64 channels."""


def convert(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Converts the encoder of a masked autoencoder; its decoder, where the file holds one, is left out.

    Args:
        state: The state dictionary of the public code.

    Returns:
        Configuration of a ViTEncoder and the state dictionary that fits it.

    Raises:
        ValueError: If a key is missing or unknown, or a shape is not the public encoder's.
    """
    width, channels, patch, _ = find(state, "patch_embed.proj.weight", 4).shape
    positions, depth = find(state, "pos_embed", 3).shape[1], count_blocks(state)
    hidden = find(state, "blocks.0.mlp.fc1.weight", 2).shape[0]
    side = math.isqrt(max(1, positions - 1))
    encoder = {
        name: tensor for name, tensor in state.items() if not name.startswith("decoder_") and name != "mask_token"
    }
    expected: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + side**2, width),
        "patch_embed.proj.weight": (width, channels, patch, patch),
        **dict.fromkeys(("patch_embed.proj.bias", "norm.weight", "norm.bias"), (width,)),
    }
    for number in range(depth):
        shapes = block_shapes(width, hidden)
        expected |= {f"blocks.{number}.{name}": shape for name, shape in shapes.items()}
    check_names(encoder, expected)
    arguments = {
        "image_size": [side * patch, side * patch],
        "in_channels": channels,
        "width": width,
        "depth": depth,
        "heads": HEADS.get(width, max(1, width // 64)),
        "mlp_ratio": hidden / width,
        "patch": patch,
    }
    return {"class_path": "mvg.models.ViTEncoder", "init_args": arguments}, encoder
