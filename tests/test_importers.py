"""Importers on small trees in exactly the layouts that the data sets have."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from test_manifest import archive, mvg_data
from test_readers import damage, write_nifti

from mvg.data import ManifestSource
from mvg.data.importers import LAYOUTS, Choice
from mvg.data.importers.bids import parse_name
from mvg.data.importers.nnunet import class_names
from mvg.data.manifest import read_manifest

SHAPE = (6, 7, 4)


def rng_of(name):
    return np.random.default_rng(sum(map(ord, str(name))))


def scan(path, channels=None):
    shape = SHAPE if channels is None else (*SHAPE, channels)
    return write_nifti(path, rng_of(path.name).normal(100, 20, shape))


def mask(path, highest=1):
    values = np.zeros(SHAPE)
    values[2:5, 2:5, 1:3] = rng_of(path.name).integers(1, highest + 1, (3, 3, 2))
    return write_nifti(path, values, dtype=np.uint8)


def picture(path, highest=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng_of(path).integers(0, highest + 1, (12, 10)).astype(np.uint8)).save(path)


def describe(root, **content):
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def import_of(layout, root, **choice):
    """What an importer finds: case to role to place, and the data set."""
    found = LAYOUTS[layout](root, Choice(**choice))
    cases = {}
    folder = root if root.is_dir() else root.parent
    for row in found.rows:
        cases.setdefault(row.case, {})[row.role] = row.location.text(folder)
    return cases, found


def splits_of(found):
    return {row.case: row.split for row in found.rows}


def nnunet(root, ending=".nii.gz", channels=2, **content):
    for case in ("liver_001", "liver_002"):
        for channel in range(channels):
            scan(root / "imagesTr" / f"{case}_{channel:04d}{ending}")
        mask(root / "labelsTr" / f"{case}{ending}", 2)
    for channel in range(channels):
        scan(root / "imagesTs" / f"liver_003_{channel:04d}{ending}")
    return describe(root, numTraining=2, **content)


V1 = {"modality": {"0": "CT", "1": "PET"}, "labels": {"0": "background", "1": "liver", "2": "tumor"}}
V2 = {
    "channel_names": {"0": "CT", "1": "PET"},
    "labels": {"background": 0, "liver": 1, "tumor": 2},
    "file_ending": ".nii.gz",
}


@pytest.mark.parametrize("version", [V1, V2])
def test_nnunet_of_both_versions(tmp_path, version):
    cases, found = import_of("nnunet", nnunet(tmp_path, **version))
    assert cases["liver_001"] == {
        "ct": "imagesTr/liver_001_0000.nii.gz",
        "pet": "imagesTr/liver_001_0001.nii.gz",
        "labels": "labelsTr/liver_001.nii.gz",
    }
    assert list(cases["liver_003"]) == ["ct", "pet"]
    assert splits_of(found) == {"liver_001": "", "liver_002": "", "liver_003": "test"}
    assert found.class_names == {"labels": {1: "liver", 2: "tumor"}}
    assert {row.modality for row in found.rows if row.role == "pet"} == {"PET"}


def test_nnunet_regions_and_listed_files(tmp_path):
    labels = {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2, "ignore": 4}
    expected = {1: "kidney, rest", 2: "tumor", 3: "masses, rest", 4: "ignore"}
    assert class_names(labels, tmp_path) == expected
    scan(tmp_path / "far" / "x.nii.gz")
    mask(tmp_path / "far" / "y.nii.gz")
    listed = {"one": {"images": ["far/x.nii.gz"], "label": "far/y.nii.gz"}}
    describe(tmp_path, channel_names={"0": "CT"}, labels=labels, file_ending=".nii.gz", dataset=listed, numTraining=1)
    cases, found = import_of("nnunet", tmp_path)
    assert cases == {"one": {"image": "far/x.nii.gz", "labels": "far/y.nii.gz"}}
    assert "ignore" in found.remarks[0]


def test_nnunet_of_colour_pictures_in_one_file(tmp_path):
    picture(tmp_path / "imagesTr" / "a_0000.png")
    picture(tmp_path / "labelsTr" / "a.png", 1)
    names = {"0": "R", "1": "G", "2": "B"}
    describe(tmp_path, channel_names=names, labels={"background": 0, "x": 1}, file_ending=".png", numTraining=1)
    assert list(import_of("nnunet", tmp_path)[0]["a"]) == ["image", "labels"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: describe(root, **{**V2, "numTraining": 7}), r"states 7 training cases .* found 2"),
        (lambda root: (root / "labelsTr" / "liver_002.nii.gz").unlink(), r"labelsTr lacks the cases liver_002"),
        (lambda root: (root / "imagesTr" / "liver_002_0001.nii.gz").unlink(), r"'liver_002' has 1 of 2 channels"),
        (lambda root: (root / "imagesTr" / "liver_002_0000.nii.gz").unlink(), r"'liver_002'.* channels \[1\]"),
        (lambda root: scan(root / "imagesTr" / "odd.nii.gz"), r"odd\.nii\.gz does not end with a channel"),
        (lambda root: describe(root, modality={"0": "CT"}), r"'labels' is missing"),
        (lambda root: describe(root, **{**V2, "channel_names": ["CT", "PET"]}), r"numbered from 0"),
        (lambda root: (root / "dataset.json").write_text("{"), r"cannot be read as JSON"),
        (lambda root: (root / "dataset.json").unlink(), r"does not exist"),
    ],
)
def test_nnunet_that_contradicts_itself_is_refused(tmp_path, change, words):
    change(nnunet(tmp_path, **V2))
    with pytest.raises(ValueError, match=words):
        import_of("nnunet", tmp_path)


def decathlon(root, **content):
    for number in (1, 2):
        scan(root / "imagesTr" / f"BRATS_{number}.nii.gz", 2)
        mask(root / "labelsTr" / f"BRATS_{number}.nii.gz")
    scan(root / "imagesTs" / "BRATS_9.nii.gz", 2)
    (root / "imagesTr" / "._BRATS_1.nii.gz").write_bytes(b"Mac OS X")
    pairs = [
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        for name in ("BRATS_1", "BRATS_2", "._BRATS_1")
    ]
    usual = {
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "edema"},
        "numTraining": 2,
        "numTest": 1,
        "training": pairs,
        "test": ["./imagesTs/BRATS_9.nii.gz"],
        "licence": "CC-BY-SA 4.0",
    }
    return describe(root, **{**usual, **content})


def test_decathlon_channels_become_roles(tmp_path):
    cases, found = import_of("decathlon", decathlon(tmp_path))
    assert sorted(cases) == ["BRATS_1", "BRATS_2", "BRATS_9"]
    assert cases["BRATS_1"] == {
        "flair": "imagesTr/BRATS_1.nii.gz#0",
        "t1w": "imagesTr/BRATS_1.nii.gz#1",
        "labels": "labelsTr/BRATS_1.nii.gz",
    }
    assert (splits_of(found)["BRATS_9"], list(cases["BRATS_9"])) == ("test", ["flair", "t1w"])
    assert (found.class_names, found.licence) == ({"labels": {1: "edema"}}, "CC-BY-SA 4.0")


def test_decathlon_count_is_checked(tmp_path):
    with pytest.raises(ValueError, match=r"numTraining = 3 and lists 2"):
        import_of("decathlon", decathlon(tmp_path, numTraining=3))


def test_decathlon_runs_from_folder_to_tensors(tmp_path, monkeypatch):
    output = tmp_path / "brain.csv"
    words = ["--layout=decathlon", f"--folder={decathlon(tmp_path / 'Task01')}", f"--output={output}"]
    mvg_data(monkeypatch, "prepare", *words, "--split=0.5,0.5,0")
    assert ",Task01/imagesTr/BRATS_1.nii.gz#1,T1w," in output.read_text()
    source = ManifestSource(str(output), slices="axial", cache=str(tmp_path / "cache"))
    item = source.items("test")[1]
    assert (item.case, item.keys) == ("BRATS_9", {"image", "t1w"})
    images = source.read(item).images
    assert not np.allclose(images["image"], images["t1w"])


def monai(root, **sections):
    for number in range(4):
        scan(root / "images" / f"c{number}.nii.gz")
        mask(root / "labels" / f"c{number}.nii.gz")
    (root / "list.json").write_text(json.dumps(sections))
    return root / "list.json"


def pair(number, **more):
    return {"image": f"images/c{number}.nii.gz", "label": f"labels/c{number}.nii.gz", **more}


def test_monai_sections_are_splits(tmp_path):
    sections = {"training": [pair(0)], "validation": [pair(1)], "testing": ["images/c2.nii.gz"]}
    cases, found = import_of("monai", monai(tmp_path, **sections, labels={"0": "background", "1": "x"}))
    assert splits_of(found) == {"c0": "", "c1": "val", "c2": "test"}
    assert cases["c2"] == {"image": "images/c2.nii.gz"}
    assert cases["c0"] == {"image": "images/c0.nii.gz", "labels": "labels/c0.nii.gz"}
    assert found.class_names == {"labels": {1: "x"}}


def test_monai_folds_and_lists_of_images(tmp_path):
    several = {"image": ["images/c0.nii.gz", "images/c1.nii.gz"], "label": "labels/c0.nii.gz", "fold": 0}
    path = monai(tmp_path, training=[several, pair(2, fold=1)])
    cases, found = import_of("monai", path, fold=1)
    assert splits_of(found) == {"c0": "train", "c2": "val"}
    assert list(cases["c0"]) == ["image_0", "image_1", "labels"]
    with pytest.raises(ValueError, match=r"fold 5; the folds are \[0, 1\]"):
        import_of("monai", path, fold=5)
    with pytest.raises(ValueError, match="names no image"):
        import_of("monai", monai(tmp_path, training=[{"label": "labels/c0.nii.gz"}]))


def bids(root):
    for session in (1, 2):
        for suffix in ("T1w", "acq-fast_T2w"):
            scan(root / "sub-01" / f"ses-{session}" / "anat" / f"sub-01_ses-{session}_{suffix}.nii.gz")
    scan(root / "sub-02" / "anat" / "sub-02_T1w.nii.gz")
    scan(root / "sub-02" / "anat" / "sub-02_run-2_T1w.nii.gz")
    (root / "sub-02" / "anat" / "sub-02_T1w.json").write_text("{}")
    derived = root / "derivatives" / "manual"
    mask(derived / "sub-01" / "ses-2" / "anat" / "sub-01_ses-2_desc-lesion_dseg.nii.gz", 2)
    mask(derived / "sub-02" / "anat" / "sub-02_space-MNI152_dseg.nii.gz")
    (derived / "dseg.tsv").write_text("index\tname\n0\tbackground\n1\tlesion\n2\tscar\n")
    return root


def test_bids_sessions_are_cases_and_subjects_patients(tmp_path):
    cases, found = import_of("bids", bids(tmp_path))
    assert sorted(cases) == ["sub-01_ses-1", "sub-01_ses-2", "sub-02", "sub-02_run-2"]
    assert list(cases["sub-01_ses-2"]) == ["t1w", "t2w_acq_fast", "labels"]
    assert cases["sub-01_ses-2"]["labels"].endswith("sub-01_ses-2_desc-lesion_dseg.nii.gz")
    assert {row.group for row in found.rows} == {"sub-01", "sub-02"}
    assert found.class_names == {"labels": {1: "lesion", 2: "scar"}}
    assert "space-MNI152" in found.remarks[0]


def test_bids_names_without_subject_are_refused(tmp_path):
    scan(bids(tmp_path) / "sub-01" / "ses-1" / "anat" / "T1w.nii.gz")
    with pytest.raises(ValueError, match="names no subject"):
        import_of("bids", tmp_path)
    with pytest.raises(ValueError, match="no sub-"):
        import_of("bids", tmp_path / "sub-02")
    assert parse_name(tmp_path / "sub-1_run-01_T1w.nii.gz").case == "sub-1"


@pytest.mark.parametrize("place", ["{split}/{role}", "{role}/{split}"])
def test_folders_of_splits(tmp_path, place):
    for split, names in (("train", "ab"), ("val", "c"), ("test", "a")):
        for name in names:
            picture(tmp_path / place.format(split=split, role="images") / f"{name}.png")
            if split != "test":
                picture(tmp_path / place.format(split=split, role="masks") / f"{name}.tif", 1)
    (tmp_path / place.format(split="train", role="images") / "._a.png").write_bytes(b"Mac OS X")
    cases, found = import_of("folders", tmp_path)
    assert splits_of(found) == {"train_a": "train", "b": "train", "c": "val", "test_a": "test"}
    assert list(cases["c"]) == ["image", "labels"]
    assert list(cases["test_a"]) == ["image"]


def test_folders_with_named_roles(tmp_path):
    for folder in ("ct", "pet", "organs"):
        picture(tmp_path / folder / "a.png")
    roles = {"image": "ct", "pet": "pet", "labels_organs": "organs"}
    assert import_of("folders", tmp_path, roles=roles)[0]["a"] == {role: f"{f}/a.png" for role, f in roles.items()}
    picture(tmp_path / "organs" / "b.png")
    with pytest.raises(ValueError, match=r"organs/b\.png has no image"):
        import_of("folders", tmp_path, roles=roles)
    with pytest.raises(ValueError, match="--roles"):
        import_of("folders", tmp_path)


def test_pairs_in_one_folder(tmp_path):
    for name in ("a", "a_mask", "b", "b_segmentation", "c"):
        picture(tmp_path / f"{name}.png")
    cases, _ = import_of("pairs", tmp_path)
    assert cases["b"] == {"image": "b.png", "labels": "b_segmentation.png"}
    assert cases["c"] == {"image": "c.png"}
    roles = {"image": "_ct", "labels": "_organs"}
    picture(tmp_path / "d_organs.png")
    with pytest.raises(ValueError, match=r"d_organs\.png has no image 'd'"):
        import_of("pairs", tmp_path, roles=roles)


def test_table_of_cases(tmp_path):
    text = "case,patient,split,modality,t1,mask,age\na,p1,val,MR,x/a.nii.gz,y/a.nii.gz,50\nb,p2,,MR,x/b.nii.gz,,60\n"
    (tmp_path / "t.csv").write_text(text)
    cases, found = import_of("table", tmp_path / "t.csv")
    assert cases == {"a": {"t1": "x/a.nii.gz", "labels": "y/a.nii.gz"}, "b": {"t1": "x/b.nii.gz"}}
    assert splits_of(found) == {"a": "val", "b": ""}
    assert {row.group for row in found.rows} == {"p1", "p2"}
    with pytest.raises(ValueError, match="no column 'ct'"):
        import_of("table", tmp_path / "t.csv", roles={"image": "ct"})


def medical_archive(path, labels):
    rng = np.random.default_rng(0)
    arrays = {f"{split}_images": rng.integers(0, 256, (2, 12, 10), np.uint8) for split in ("train", "val", "test")}
    maps = {
        f"{split}_{labels}": (arrays[f"{split}_images"] > 99).astype(np.uint8) for split in ("train", "val", "test")
    }
    if labels == "labels":
        maps = {name: values[:, :1, 0] for name, values in maps.items()}
    return archive(path, **arrays, **maps)


def test_archives_with_label_maps_and_with_mere_classes(tmp_path):
    cases, found = import_of("npz", medical_archive(tmp_path / "seg.npz", "label"))
    assert cases["seg_val_1"] == {"image": "seg.npz#val_images/1", "labels": "seg.npz#val_label/1"}
    assert sorted(set(splits_of(found).values())) == ["test", "train", "val"]
    cases, found = import_of("npz", medical_archive(tmp_path / "mnist.npz", "labels"))
    assert cases["mnist_val_1"] == {"image": "mnist.npz#val_images/1"}
    assert len(found.remarks) == 3
    with pytest.raises(ValueError, match="no array train_images"):
        import_of("npz", archive(tmp_path / "x.npz", x=np.zeros(3)))


def test_copies_within_an_archive_are_found(tmp_path, monkeypatch, capsys):
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 10), np.uint8)
    path = archive(tmp_path / "a.npz", train_images=images, test_images=images[1:2])
    words = ["prepare", "--layout=npz", f"--folder={path}", f"--output={tmp_path / 'a.csv'}"]
    with pytest.raises(SystemExit) as stop:
        mvg_data(monkeypatch, *words)
    assert stop.value.code == 2
    assert "train_images/1 in train and" in capsys.readouterr().err
    mvg_data(monkeypatch, *words, "--drop_copies=true")
    assert [row.case for row in read_manifest(tmp_path / "a.csv")] == ["a_train_0", "a_train_2", "a_test_0"]
    source = ManifestSource(str(tmp_path / "a.csv"), cache=str(tmp_path / "cache"))
    read = source.read(source.items("train")[1]).images["image"][0]
    np.testing.assert_allclose(read, images[2] / 255, atol=1e-6)


def test_nnunet_of_another_format_runs_from_folder_to_tensors(tmp_path, monkeypatch):
    root = nnunet(tmp_path / "set", channels=1, channel_names={"0": "CT"}, labels=V2["labels"], file_ending=".mha")
    for path in [*root.rglob("*.nii.gz")]:
        image = sitk.ReadImage(str(path))
        for key in image.GetMetaDataKeys():
            image.EraseMetaData(key)
        sitk.WriteImage(image, str(path).replace(".nii.gz", ".mha"), True)
        path.unlink()
    mvg_data(monkeypatch, "prepare", "--layout=nnunet", f"--folder={root}", f"--output={tmp_path / 'set.csv'}")
    source = ManifestSource(str(tmp_path / "set.csv"), min_pixels=1, cache=str(tmp_path / "cache"))
    items = [item for split in ("train", "val", "test") for item in source.items(split)]
    assert {item.case for item in items} == {"liver_001", "liver_002", "liver_003"}
    assert any("labels=2" in item.keys for item in items)


def test_patient_in_two_splits_of_a_layout_is_refused(tmp_path, monkeypatch, capsys):
    root = nnunet(tmp_path / "set", **V2)
    words = ["prepare", "--layout=nnunet", f"--folder={root}", f"--output={tmp_path / 'set.csv'}"]
    scan(root / "imagesTs" / "liver_001_0000.nii.gz")
    scan(root / "imagesTs" / "liver_001_0001.nii.gz")
    with pytest.raises(SystemExit):
        mvg_data(monkeypatch, *words)
    assert "case 'liver_001' has role 'image' twice" in capsys.readouterr().err


def test_truncated_and_missing_files_of_a_layout_are_all_named(tmp_path, monkeypatch, capsys):
    root = decathlon(tmp_path / "set")
    damage(root / "imagesTr" / "BRATS_1.nii.gz", "half")
    (root / "labelsTr" / "BRATS_2.nii.gz").unlink()
    with pytest.raises(SystemExit) as stop:
        mvg_data(monkeypatch, "prepare", "--layout=decathlon", f"--folder={root}", f"--output={tmp_path / 'set.csv'}")
    said = capsys.readouterr().err
    assert (stop.value.code, "BRATS_1.nii.gz" in said, "labelsTr/BRATS_2.nii.gz" in said) == (2, True, True)
    assert not (tmp_path / "set.csv").exists()


def test_label_that_is_not_named_is_refused(tmp_path, monkeypatch, capsys):
    root = nnunet(tmp_path / "set", **{**V2, "labels": {"background": 0, "liver": 1}})
    with pytest.raises(SystemExit):
        mvg_data(monkeypatch, "prepare", "--layout=nnunet", f"--folder={root}", f"--output={tmp_path / 'set.csv'}")
    assert "classes [2] are not in `class_names`" in capsys.readouterr().err
