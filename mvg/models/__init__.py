"""Networks, a file each, and their parts; imported when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvg.lazy import lazy

if TYPE_CHECKING:
    from mvg.models.base import InContextModel as InContextModel
    from mvg.models.canvas_vit import CanvasViT as CanvasViT
    from mvg.models.decoder import TwoConvHead as TwoConvHead
    from mvg.models.decoder import UNetDecoder as UNetDecoder
    from mvg.models.lvm import LVM as LVM
    from mvg.models.medverse import Medverse as Medverse
    from mvg.models.mixed import Mixed as Mixed
    from mvg.models.seggpt import SegGPT as SegGPT
    from mvg.models.stem import ConvStem as ConvStem
    from mvg.models.stem import PatchStem as PatchStem
    from mvg.models.universeg import UniverSeg as UniverSeg
    from mvg.models.vit_encoder import ViTEncoder as ViTEncoder
else:
    __all__, __getattr__, __dir__ = lazy(__name__)
