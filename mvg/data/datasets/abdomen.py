"""Abdominal organs in CT and MRI."""

from __future__ import annotations

from mvg.data.datasets.card import SEGMENTATION, PublicSet, Terms, Tree, counted
from mvg.data.datasets.patterns import Files, Pattern
from mvg.data.datasets.special import read_total_segmentator
from mvg.data.intensity import Window

SOFT_TISSUE = {"image": Window(-100, 200)}
"""The CT window of the MVG paper, in Hounsfield units."""

_AMOS = dict(
    enumerate(
        (
            "spleen",
            "right kidney",
            "left kidney",
            "gallbladder",
            "esophagus",
            "liver",
            "stomach",
            "aorta",
            "inferior vena cava",
            "pancreas",
            "right adrenal gland",
            "left adrenal gland",
            "duodenum",
            "bladder",
            "prostate or uterus",
        ),
        1,
    )
)
_WORD = dict(
    enumerate(
        (
            "liver",
            "spleen",
            "left kidney",
            "right kidney",
            "stomach",
            "gallbladder",
            "esophagus",
            "pancreas",
            "duodenum",
            "colon",
            "intestine",
            "adrenal glands",
            "rectum",
            "bladder",
            "left head of femur",
            "right head of femur",
        ),
        1,
    )
)
_BTCV = dict(
    enumerate(
        (
            "spleen",
            "right kidney",
            "left kidney",
            "gallbladder",
            "esophagus",
            "liver",
            "stomach",
            "aorta",
            "inferior vena cava",
            "portal and splenic veins",
            "pancreas",
            "right adrenal gland",
            "left adrenal gland",
        ),
        1,
    )
)
_FLARE = dict(
    enumerate(
        (
            "liver",
            "right kidney",
            "spleen",
            "pancreas",
            "aorta",
            "inferior vena cava",
            "right adrenal gland",
            "left adrenal gland",
            "gallbladder",
            "esophagus",
            "stomach",
            "duodenum",
            "left kidney",
        ),
        1,
    )
)


def _parts(*splits: tuple[str, str]) -> tuple[Pattern, ...]:
    """Patterns of `imagesTr`, `labelsTr` and so on: ending and split."""
    return tuple(
        Pattern(role, f"{folder}{end}/{{case}}.nii.gz", split)
        for end, split in splits
        for role, folder in (("image", "images"), ("labels", "labels"))
    )


def _amos(name: str, kind: str, numbers: str, benchmark: tuple[int, int], notes: str) -> PublicSet:
    read = Files(_parts(("Tr", ""), ("Va", "test")), {"case": numbers})
    return PublicSet(
        name=name,
        title=f"AMOS22, {kind}",
        homepage="https://amos22.grand-challenge.org, doi:10.5281/zenodo.7155725",
        terms=Terms("CC BY-NC-SA 4.0", False, "share alike, non-commercial"),
        modality=kind,
        tree=Tree(read.words, "its readme: folders and counts, numbers below 500 are CT, the others MRI"),
        read=read,
        shares=(0.9, 0.1, 0.0),
        split="official: labelled validation cases are the test split; a tenth of the training cases validates. "
        "`imagesTs` has no labels and is not read",
        class_names={"labels": _AMOS},
        intensity=SOFT_TISSUE if kind == "CT" else {},
        spacing="CT 1.25 to 5 mm slices; MRI varies" if kind == "CT" else "varies by sequence",
        tasks=SEGMENTATION,
        benchmark=benchmark,
        notes=notes,
        checked="folders, counts and numbers in its readme (read in a copy); on the page of its article (OpenReview) "
        "the licence begins with CC BY-NC",
    )


AMOS_CT = _amos(
    "amos-ct",
    "CT",
    r"amos_0[0-4]\d\d",
    (240, 120),
    "200 training and 100 validation cases are labelled CT; the paper's 240 and 120 are the counts of CT and MRI",
)
AMOS_MRI = _amos(
    "amos-mri",
    "MRI",
    r"amos_0[5-9]\d\d",
    (60, 50),
    "40 training and 20 validation cases are labelled; which cases the paper's 60 and 50 are is not known",
)

_WORD_FILES = Files(_parts(("Tr", "train"), ("Val", "val"), ("Ts", "test")), {"case": r"word_\d+"}, labelled="labels")
WORD = PublicSet(
    name="word",
    title="WORD",
    homepage="https://github.com/HiLab-git/WORD",
    terms=Terms("GPL-3.0 with a statement: academic research only", False, "academic research only", checked=True),
    modality="CT",
    tree=Tree(
        _WORD_FILES.words,
        "its repository (version, labels of the test cases in an archive of their own); names of files are inferred",
        sure=False,
    ),
    read=_WORD_FILES,
    shares=(0.9, 0.1, 0.0),
    split="official: 100 train, 20 val, 30 test; without the archive of test labels the test split is empty",
    class_names={"labels": _WORD},
    intensity=SOFT_TISSUE,
    spacing="0.98 x 0.98 x 2.5 to 3 mm",
    tasks=SEGMENTATION,
    benchmark=(100, 20),
    notes="the paper's 20 test cases are the official validation split",
    checked="licence and statement in the readme of its repository",
)

_BTCV_FILES = Files(
    (
        Pattern("image", "Training/img/img{number}.nii.gz"),
        Pattern("labels", "Training/label/label{number}.nii.gz"),
    ),
    {"number": r"\d{4}"},
    "img{number}",
    "img{number}",
)
BTCV = PublicSet(
    name="btcv",
    title="BTCV (Beyond the Cranial Vault), abdomen",
    homepage="https://www.synapse.org/Synapse:syn3193805",
    terms=Terms("terms of its page (registration)", None, "ask the organisers"),
    modality="CT",
    tree=Tree(
        _BTCV_FILES.words, "code that reads archive RawData.zip (folders); names of files are inferred", sure=False
    ),
    read=_BTCV_FILES,
    shares=counted(21, 9),
    split="seeded: 21 train (a tenth of them validates), 9 test, as the paper counts; its case lists are not known. "
    "`Testing` has no labels and is not read",
    class_names={"labels": _BTCV},
    intensity=SOFT_TISSUE,
    spacing="0.54 to 0.98 x 2.5 to 5 mm",
    tasks=SEGMENTATION,
    benchmark=(21, 9),
)

_FLARE_FILES = Files(
    (Pattern("image", "images/{case}_0000.nii.gz"), Pattern("labels", "labels/{case}.nii.gz")),
    {"case": r"FLARE22_Tr_\d{4}"},
)
FLARE = PublicSet(
    name="flare22",
    title="FLARE22, labelled cases",
    homepage="https://flare22.grand-challenge.org, doi:10.5281/zenodo.7860267",
    terms=Terms("terms of its page", None, "its labelled scans are those of MSD pancreas, CC BY-SA 4.0"),
    modality="CT",
    tree=Tree(_FLARE_FILES.words, "code that reads archive FLARE22Train.zip"),
    read=_FLARE_FILES,
    shares=(0.7, 0.1, 0.2),
    split="seeded by share; Medverse holds all 50 out",
    class_names={"labels": _FLARE},
    intensity=SOFT_TISSUE,
    spacing="2.5 mm slices",
    tasks=SEGMENTATION,
    notes="the images are from the MSD pancreas task: never train on one and test on the other",
    checked="50 labelled cases, all with disease of the pancreas, on the challenge's page; the licence was not read",
)

TOTAL_SEGMENTATOR = PublicSet(
    name="totalsegmentator",
    title="TotalSegmentator, version 2",
    homepage="doi:10.5281/zenodo.10047292",
    terms=Terms("CC BY 4.0", True, "free with attribution"),
    modality="CT",
    tree=Tree(
        ("meta.csv (image_id;...;split)", "s0000/ct.nii.gz", "s0000/segmentations/{structure}.nii.gz"),
        "a listing of its folders; that meta.csv holds the split is in its repository's readme; columns are inferred",
        sure=False,
    ),
    read=read_total_segmentator,
    shares=(0.9, 0.1, 0.0),
    split="official, column `split` of meta.csv",
    intensity={"image": Window(-300, 400)},
    slices="axial",
    spacing="1.5 mm, resampled by its authors",
    tasks=SEGMENTATION,
    notes="a mask for each structure is joined into one map; indices are alphabetical, not those of the tool. "
    "Its labels were made by a network and corrected",
    checked="1,228 subjects and the split in meta.csv, in the readme of its repository; the licence as a re-release of "
    "the set states it, not at its own record",
)

SETS = (AMOS_CT, AMOS_MRI, WORD, BTCV, FLARE, TOTAL_SEGMENTATOR)
"""All recipes of this file."""
