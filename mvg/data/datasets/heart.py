"""The heart in MRI."""

from __future__ import annotations

from mvg.data.datasets.card import SEGMENTATION, PublicSet, Terms, Tree, counted
from mvg.data.datasets.patterns import Files, Pattern

_ACDC_FILES = Files(
    tuple(
        Pattern(role, f"{folder}/{{patient}}/{{patient}}_{{frame}}{end}.nii.gz", split)
        for folder, split in (("training", ""), ("testing", "test"))
        for role, end in (("image", ""), ("labels", "_gt"))
    ),
    {"patient": r"patient\d{3}", "frame": r"frame\d\d"},
    "{patient}_{frame}",
    "{patient}",
)
ACDC = PublicSet(
    name="acdc",
    title="ACDC (Automated Cardiac Diagnosis Challenge)",
    homepage="https://humanheart-project.creatis.insa-lyon.fr/database, doi:10.1109/TMI.2018.2837502",
    terms=Terms("CC BY-NC-SA 4.0", False, "share alike, non-commercial"),
    modality="MRI",
    tree=Tree((*_ACDC_FILES.words, "training/{patient}/Info.cfg (not needed)"), "code that reads archive ACDC.zip"),
    read=_ACDC_FILES,
    shares=(0.9, 0.1, 0.0),
    split="official: 100 train (a tenth of them validates), 50 test; the end-diastolic and the end-systolic frame of a "
    "patient are two cases of one patient",
    class_names={"labels": {1: "right ventricle", 2: "myocardium", 3: "left ventricle"}},
    spacing="1.37 to 1.68 x 5 to 10 mm",
    tasks=SEGMENTATION,
    benchmark=(100, 50),
    notes="the 4D films `*_4d.nii.gz` are not read; slices of the apex and base may hold no label",
    checked="100 training and 50 test patients in the readme of code that reads it (CineMA); the licence as a re-"
    "release of the set states it, not at its own page",
)

_ATRIUM_FILES = Files(
    (
        Pattern("image", "{folder}/{case}/lgemri.nrrd"),
        Pattern("labels", "{folder}/{case}/laendo.nrrd", values={255: 1, 1: 1}),
    ),
    {"folder": "Training Set|2018LA_Seg_TrainingSet|Training_Set", "case": r"\w+"},
)
LEFT_ATRIUM = PublicSet(
    name="la2018",
    title="Left atrium 2018 (Atrial Segmentation Challenge)",
    homepage="https://www.cardiacatlas.org/atriaseg2018-challenge, doi:10.1016/j.media.2020.101832",
    terms=Terms("terms of its page", None, "ask the organisers"),
    modality="MRI",
    tree=Tree(
        ("Training Set/{case}/lgemri.nrrd", "Training Set/{case}/laendo.nrrd"),
        "code that reads it; labels are 0 and 255",
    ),
    read=_ATRIUM_FILES,
    shares=counted(81, 20),
    split="seeded: 80 train (a tenth of them validates), 20 test of the 100 labelled cases; the paper says 81 and 20, "
    "its case lists are not known. `Testing Set` is not read",
    class_names={"labels": {1: "left atrium"}},
    slices="auto",
    spacing="0.625 or 1 x 0.625 or 1 x 1.25 mm, 88 slices",
    tasks=SEGMENTATION,
    benchmark=(81, 20),
    notes="label maps are written anew with 1 in place of 255",
)

SETS = (ACDC, LEFT_ATRIUM)
"""All recipes of this file."""
