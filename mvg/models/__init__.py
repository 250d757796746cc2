"""Networks, a file each, and their parts."""

from mvg.models.base import InContextModel
from mvg.models.canvas_vit import CanvasViT
from mvg.models.decoder import TwoConvHead, UNetDecoder
from mvg.models.medverse import Medverse
from mvg.models.stem import ConvStem, PatchStem

__all__ = ["CanvasViT", "ConvStem", "InContextModel", "Medverse", "PatchStem", "TwoConvHead", "UNetDecoder"]
