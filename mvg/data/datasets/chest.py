"""Chest and whole body: X-ray, low-dose CT, lesions."""

from __future__ import annotations

from mvg.data.datasets.card import SEGMENTATION, PublicSet, Terms, Tree, counted
from mvg.data.datasets.special import JoinedMasks, LowDose, read_deep_lesion
from mvg.data.intensity import Window

MONTGOMERY = PublicSet(
    name="montgomery",
    title="Montgomery County chest X-rays",
    homepage="https://data.lhncbc.nlm.nih.gov, Tuberculosis Chest X-ray Datasets, doi:10.1109/TMI.2013.2284099",
    terms=Terms("terms of its page", None, "see its page; it asks for citations"),
    modality="X-ray",
    tree=Tree(
        ("MontgomerySet/CXR_png/{case}.png", "MontgomerySet/ManualMask/leftMask/{case}.png", "and .../rightMask/"),
        "code that reads archive NLM-MontgomeryCXRSet.zip",
    ),
    read=JoinedMasks("CXR_png", {1: "ManualMask/rightMask", 2: "ManualMask/leftMask"}),
    shares=counted(15, 6),
    split="seeded, in the proportion of the paper (15 : 6) of all 138 images",
    class_names={"labels": {1: "right lung", 2: "left lung"}},
    longest=1024,
    spacing="0.0875 mm, 4020 x 4892 pixels",
    tasks=SEGMENTATION,
    benchmark=(15, 6),
    notes="the paper cites a review of lung boundaries in chest X-rays (PMID 30730032) for its 15 and 6 images and "
    "names no set; this is the one of the review with lung masks of its own: inferred",
)


def _low_dose(name: str, part: str, letter: str, dose: str, window: Window, notes: str) -> PublicSet:
    return PublicSet(
        name=name,
        title=f"Low-dose CT image and projection data, {part}",
        homepage="https://www.cancerimagingarchive.net/collection/ldct-and-projection-data, doi:10.7937/9NPB-2637",
        terms=Terms("terms of its page", None, "see its page"),
        modality="CT",
        tree=Tree(
            (
                f"LDCT-and-Projection-data/{letter}000/{{study}}/1.000000-Full Dose Images-00000/1-001.dcm",
                f"LDCT-and-Projection-data/{letter}000/{{study}}/1.000000-Low Dose Images-00000/1-001.dcm",
            ),
            "folders as its download tool writes them, read in code that uses them",
        ),
        read=LowDose(letter),
        shares=counted(200, 59),
        split="seeded, in the proportion of the paper (200 : 59); what its counts count is not known",
        intensity={"image": window, "noisy": window},
        reference="image",
        spacing=f"low dose is {dose} of the full dose, simulated",
        tasks={"denoising": {"class_path": "tasks.Denoising", "init_args": {"role": "image", "degraded": "noisy"}}},
        benchmark=(200, 59) if letter == "C" else None,
        notes=f"DICOM series are converted to NIfTI beside the manifest. {notes}",
        checked="the archive's policy: most collections are CC BY, some are not; its own page was not read",
    )


LOW_DOSE_CHEST = _low_dose(
    "ldct-chest",
    "chest",
    "C",
    "10 %",
    Window(-1000, 400),
    "Patients scanned on GE have no low-dose images and are left out; projections are not read",
)
LOW_DOSE_ABDOMEN = _low_dose(
    "ldct-abdomen", "abdomen", "L", "25 %", Window(-160, 240), "As ldct-chest; not in the paper's table"
)

DEEP_LESION = PublicSet(
    name="deeplesion",
    title="DeepLesion, key slices",
    homepage="https://nihcc.app.box.com/v/DeepLesion, doi:10.1117/1.JMI.5.3.036501",
    terms=Terms("terms of its page", None, "see its page; it asks for citations"),
    modality="CT",
    tree=Tree(
        ("DL_info.csv", "Images_png/{series}/{slice}.png (16 bits, Hounsfield units + 32768)"),
        "code that reads it; Images_png/Images_png, as its archives unpack, is read too",
    ),
    read=read_deep_lesion,
    shares=(0.7, 0.15, 0.15),
    split="official, column Train_Val_Test, by patient; the paper's 25,000 and 7,120 add up to all 32,120 key slices, "
    "its own lists are not known",
    class_names={"labels": {1: "lesion"}},
    intensity={"image": Window(32768 - 1024, 32768 + 1050)},
    longest=512,
    spacing="column Spacing_mm_px_; pictures carry none",
    tasks={"detection": {"class_path": "tasks.Detection", "init_args": {"role": "image", "labels": "labels"}}},
    benchmark=(25000, 7120),
    notes="boxes are filled in the label map; overlapping ones become one. Not every lesion is marked. How the paper "
    "turned boxes into images is not known",
    checked="32,120 key slices and 16-bit pictures of Hounsfield units + 32768 in the readme of a re-release; that one "
    "states CC BY-SA 4.0, which was not found at the set itself",
)

SETS = (MONTGOMERY, LOW_DOSE_CHEST, LOW_DOSE_ABDOMEN, DEEP_LESION)
"""All recipes of this file."""
