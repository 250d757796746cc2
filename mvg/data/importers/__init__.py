"""Importers: from the common layouts of data sets to the rows of a manifest."""

from collections.abc import Callable
from pathlib import Path

from mvg.data.importers import assembly
from mvg.data.importers.bids import read_bids
from mvg.data.importers.datalists import read_decathlon, read_monai
from mvg.data.importers.dataset import Choice, Dataset
from mvg.data.importers.dicom import read_dicom
from mvg.data.importers.folders import read_folders, read_pairs
from mvg.data.importers.nnunet import read_nnunet
from mvg.data.importers.tables import read_npz, read_table

LAYOUTS: dict[str, Callable[[Path, Choice], Dataset]] = {
    "nnunet": read_nnunet,
    "decathlon": read_decathlon,
    "monai": read_monai,
    "bids": read_bids,
    "folders": read_folders,
    "pairs": read_pairs,
    "table": read_table,
    "npz": read_npz,
    "dicom": read_dicom,
}
"""Layout to its importer."""

__all__ = ["LAYOUTS", "Choice", "Dataset", "assembly"]
