"""The prostate in MRI and micro-ultrasound."""

from __future__ import annotations

from mvg.data.datasets.card import SEGMENTATION, PublicSet, Terms, Tree, counted
from mvg.data.datasets.patterns import Files, Pattern

_MICRO_FILES = Files(
    tuple(
        Pattern(role, f"{split}/{folder}/{name}_{split}_{{number}}.nii.gz", split if split == "test" else "", split)
        for split in ("train", "test")
        for role, folder, name in (
            ("image", "micro_ultrasound_scans", "microUS"),
            ("labels", "expert_annotations", "expert_annotation"),
        )
    ),
    {"number": r"\d+"},
    "_{number}",
    "_{number}",
)
MICRO_ULTRASOUND = PublicSet(
    name="microsegnet",
    title="Micro-ultrasound prostate segmentation (MicroSegNet)",
    homepage="doi:10.5281/zenodo.10475293",
    terms=Terms("that of its record", None, "see its record"),
    modality="ultrasound",
    tree=Tree(_MICRO_FILES.words, "code that reads it (folders); the names of the files are inferred", sure=False),
    read=_MICRO_FILES,
    shares=(0.9, 0.1, 0.0),
    split="official: 55 train (a tenth of them validates), 20 test",
    class_names={"labels": {1: "prostate"}},
    slices="auto",
    spacing="slices of a rotating probe, not parallel planes",
    tasks=SEGMENTATION,
    benchmark=(55, 20),
    notes="expert annotations; those of others are not read",
    checked="55 and 20 patients in its article (arXiv 2305.19956), folders train and test and the record in the readme "
    "of its code; the licence was not read",
)

_PROMISE_FILES = Files(
    (
        Pattern("image", "{training}/{case}.mhd"),
        Pattern("labels", "{training}/{case}_segmentation.mhd"),
        Pattern("image", "test_data/{case}.mhd", "test", "test_"),
        Pattern("labels", "test_data/{case}_segmentation.mhd", "test", "test_", optional=True),
    ),
    {"case": r"Case\d\d", "training": r"training_data|TrainingData_Part\d"},
    labelled="labels",
)
PROMISE = PublicSet(
    name="promise12",
    title="PROMISE12",
    homepage="https://promise12.grand-challenge.org, doi:10.5281/zenodo.8026660",
    terms=Terms("that of its record", None, "see its record"),
    modality="MRI",
    tree=Tree(
        ("training_data/{case}.mhd and .raw", "training_data/{case}_segmentation.mhd and .raw", "test_data/{case}.mhd"),
        "the challenge (names of files); folder names of the record are inferred",
        sure=False,
    ),
    read=_PROMISE_FILES,
    shares=counted(50, 30),
    split="official where the 30 test cases have their segmentations (50 train, a tenth of them validates); else "
    "seeded among the 50, in the same proportion",
    class_names={"labels": {1: "prostate"}},
    spacing="0.27 to 0.75 x 2.2 to 4 mm",
    tasks=SEGMENTATION,
    benchmark=(50, 30),
    notes="test cases repeat the names of training cases and are called test_Case00, ...",
)

SETS = (MICRO_ULTRASOUND, PROMISE)
"""All recipes of this file."""
