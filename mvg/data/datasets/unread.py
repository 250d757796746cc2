"""Data sets of the papers that have no recipe, with the reason."""

from __future__ import annotations

from mvg.data.datasets.card import Unread

_APPLICATION = "only after an application to its owners, and in a layout that depends on what was asked for"

UNREAD: tuple[Unread, ...] = (
    Unread("CAS2023", "https://codalab.lisn.upsaclay.fr/competitions/9804", "terms and layout could not be checked"),
    Unread("ImageCAS (CAS, Zeng 2023)", "doi:10.1016/j.compmedimag.2023.102287", "layout could not be checked"),
    Unread(
        "ICH unlabelled",
        "(not stated)",
        "which of the public sets of intracranial haemorrhage was used is not known",
    ),
    Unread(
        "ADHD-200",
        "https://fcon_1000.projects.nitrc.org/indi/adhd200",
        "layout differs between its releases; if it is in BIDS, `--layout bids` reads it",
    ),
    Unread("ADNI (T1 and PET)", "https://adni.loni.usc.edu", _APPLICATION),
    Unread(
        "CMI Healthy Brain Network",
        "https://fcon_1000.projects.nitrc.org/indi/cmi_healthy_brain_network",
        "BIDS: `--layout bids` reads it; its masks are not public",
    ),
    Unread("GSP (Brain Genomics Superstruct)", "https://dataverse.harvard.edu/dataverse/GSP", _APPLICATION),
    Unread("HAB (Harvard Aging Brain)", "https://habs.mgh.harvard.edu", _APPLICATION),
    Unread(
        "NIMH healthy volunteers",
        "https://openneuro.org/datasets/ds005752",
        "BIDS: `--layout bids` reads it; its masks are not public",
    ),
    Unread("UK Biobank", "https://www.ukbiobank.ac.uk", _APPLICATION),
    Unread("PPMI", "https://www.ppmi-info.org", _APPLICATION),
    Unread(
        "RAOS",
        "https://github.com/Luoxd1996/RAOS",
        "by e-mail to its authors, for academic research only; the layout "
        "is not public. A small part of it is WORD: its file overlap_with_word.csv says which",
    ),
    Unread(
        "NasalSeg",
        "doi:10.5281/zenodo.13893419",
        "names of files could not be checked; users report that image and "
        "label differ in geometry in 12 of 130 cases. Use `--layout folders` or `pairs`",
    ),
    Unread("Mice (micro-CT)", "(not stated)", "which set was used is not known"),
)
"""What the tables of MVG and Medverse name and no recipe reads."""
