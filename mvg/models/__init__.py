"""Networks, a file each, and their parts; imported when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvg.lazy import lazy

if TYPE_CHECKING:
    from mvg.models.base import InContextModel
    from mvg.models.canvas_vit import CanvasViT
    from mvg.models.decoder import TwoConvHead, UNetDecoder
    from mvg.models.lvm import LVM
    from mvg.models.medverse import Medverse
    from mvg.models.mixed import Mixed
    from mvg.models.seggpt import SegGPT
    from mvg.models.stem import ConvStem, PatchStem
    from mvg.models.universeg import UniverSeg
    from mvg.models.vit_encoder import ViTEncoder
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "LVM": "mvg.models.lvm",
            "CanvasViT": "mvg.models.canvas_vit",
            "ConvStem": "mvg.models.stem",
            "InContextModel": "mvg.models.base",
            "Medverse": "mvg.models.medverse",
            "Mixed": "mvg.models.mixed",
            "PatchStem": "mvg.models.stem",
            "SegGPT": "mvg.models.seggpt",
            "TwoConvHead": "mvg.models.decoder",
            "UNetDecoder": "mvg.models.decoder",
            "UniverSeg": "mvg.models.universeg",
            "ViTEncoder": "mvg.models.vit_encoder",
        },
    )

__all__ = [
    "LVM",
    "CanvasViT",
    "ConvStem",
    "InContextModel",
    "Medverse",
    "Mixed",
    "PatchStem",
    "SegGPT",
    "TwoConvHead",
    "UNetDecoder",
    "UniverSeg",
    "ViTEncoder",
]
