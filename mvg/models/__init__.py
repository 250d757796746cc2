"""Networks, a file each, and their parts."""

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
