"""Recipes for public data sets, on generated trees in exactly their layouts."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from dataset_trees import TREES, decathlon, meta_image, promise12
from test_manifest import SCANS, mvg_data
from test_readers import damage

from mvg import cli
from mvg.configuration import from_config
from mvg.data import Index
from mvg.data.commands import prepare
from mvg.data.datasets import DATASETS, UNREAD
from mvg.data.datasets.configuration import page, shares_of
from mvg.data.datasets.made import convert_series, join_masks, map_labels, paint_boxes
from mvg.data.importers import Dataset
from mvg.data.location import Location, fingerprint, read_grid
from mvg.data.manifest import read_manifest
from mvg.data.splits import assign_splits

PAGE = Path(__file__).parents[1] / "docs" / "datasets.md"
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Makes and prepares the tree of a recipe once; returns its folder."""
    known = {}

    def make(name):
        if name not in known:
            folder = known[name] = tmp_path_factory.mktemp(name)
            TREES[name](folder / "set")
            prepare(folder / "set", folder / "out.csv", dataset=name)
        return known[name]

    return make


def source_of(folder):
    """The source and the tasks of the configuration that was written beside the manifest."""
    data = yaml.safe_load((folder / "out.yaml").read_text())["data"]
    entry = data["sources"]["out"]
    entry["init_args"] |= {"cache": str(folder / "cache"), "min_pixels": 1}
    return from_config(entry), {name: from_config(task) for name, task in data["tasks"].items()}


def rows_of(folder, case=None):
    return [row for row in read_manifest(folder / "out.csv") if case in (None, row.case)]


def patients_of(folder):
    """Patient to splits."""
    return {group: {row.split for row in rows_of(folder) if row.group == group} for group in groups_of(folder)}


def groups_of(folder):
    return {row.group for row in rows_of(folder)}


@pytest.mark.parametrize("name", DATASETS)
def test_recipe_makes_a_source_that_serves_its_tasks(prepared, name):
    folder, public = prepared(name), DATASETS[name]
    source, tasks = source_of(folder)
    assert all(len(splits) == 1 for splits in patients_of(folder).values())
    labels = {row.role for row in rows_of(folder) if row.is_label}
    assert set(source.class_names) == labels
    assert all(all(names.values()) for names in source.class_names.values())
    assert source.licence.startswith(public.terms.licence)
    assert (source.terms, source.commercial) == (public.terms.weights, public.terms.permission)
    for split in ("train", "test"):
        index = Index(source.items(split))
        assert all(task.accepts(index) for task in tasks.values())
        for task in tasks.values():
            spec = task.draw(index, np.random.default_rng(0), False)
            subject = source.read(index.items[int(index.find(tuple(spec["query"]))[0])])
            spec = task.complete(spec, [subject], np.random.default_rng(0))
            pair = task.encode(subject, spec, np.random.default_rng(0))
            assert pair.target is not None
            assert 0 <= float(pair.target.min()) < float(pair.target.max()) <= 1


@pytest.mark.parametrize("name", DATASETS)
def test_truncated_file_is_named_and_nothing_is_left(prepared, name, tmp_path):
    shutil.copytree(prepared(name) / "set", tmp_path / "set")
    files = [path for path in (tmp_path / "set").rglob("*") if path.is_file()]
    used = {row.location.path.name for row in rows_of(prepared(name)) if row.role != "labels"}
    chosen = next((path for path in files if path.name in used), None)
    if name.startswith("ldct"):
        chosen = next(path for path in files if f"/{'L' if 'abdomen' in name else 'C'}0" in str(path))
    if chosen.suffix == ".mhd":
        chosen = chosen.with_suffix(".raw" if chosen.with_suffix(".raw").exists() else ".zraw")
    damage(chosen, "half")
    with pytest.raises(ValueError, match=chosen.parent.name if chosen.suffix == ".dcm" else chosen.stem):
        prepare(tmp_path / "set", tmp_path / "out.csv", dataset=name)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in ("ixi", "ldct-chest", "ldct-abdomen")])
def test_missing_file_is_named(prepared, name, tmp_path):
    folder = prepared(name)
    shutil.copytree(folder / "set", tmp_path / "set")
    files = [row.location.path for row in rows_of(folder) if folder / "set" in row.location.path.parents]
    labels = [row.location.path for row in rows_of(folder) if row.is_label and row.location.path in files]
    gone = tmp_path / "set" / (labels or files)[0].relative_to(folder / "set")
    gone.unlink()
    with pytest.raises(ValueError, match=gone.name.replace(".", r"\.")):
        prepare(tmp_path / "set", tmp_path / "out.csv", dataset=name)


@pytest.mark.parametrize("name", DATASETS)
def test_another_folder_is_refused_in_words(name, tmp_path):
    (tmp_path / "notes.txt").write_text("no data set")
    with pytest.raises(ValueError, match=r"is here|is this the|is missing"):
        prepare(tmp_path, tmp_path / "out.csv", dataset=name)


@pytest.mark.parametrize(
    ("name", "patients", "counts"),
    [
        ("btcv", 30, (19, 2, 9)),
        ("la2018", 101, (73, 8, 20)),
        ("promise12", 80, (45, 5, 30)),
        ("brats-inpainting", 1251, (900, 100, 251)),
        ("ldct-chest", 259, (180, 20, 59)),
        ("montgomery", 21, (14, 1, 6)),
    ],
)
def test_seeded_splits_have_the_counts_of_the_paper(name, patients, counts):
    shares = shares_of(DATASETS[name], Dataset([]))
    found = assign_splits({f"p{n}": f"p{n}" for n in range(patients)}, shares, 0)
    assert tuple(len(found[split]) for split in SPLITS) == counts


def test_splits_that_a_layout_states_are_kept(prepared):
    assert {row.case for row in rows_of(prepared("amos-ct")) if row.split == "test"} == {"amos_0008", "amos_0013"}
    assert {row.case for row in rows_of(prepared("amos-mri")) if row.split == "test"} == {"amos_0514", "amos_0517"}
    assert {row.case: row.split for row in rows_of(prepared("word"))}["word_0001"] == "val"
    assert {row.case: row.split for row in rows_of(prepared("brats-gli"))}["BraTS-GLI-00001-000"] == "test"
    assert {row.case: row.split for row in rows_of(prepared("wmh"))}["wmh150"] == "test"


def test_patients_hold_their_scans_together(prepared):
    assert {row.case for row in rows_of(prepared("acdc")) if row.group == "patient001"} == {
        "patient001_frame01",
        "patient001_frame11",
    }
    assert {row.case for row in rows_of(prepared("brats-gli")) if row.group == "BraTS-GLI-00002"} == {
        "BraTS-GLI-00002-000",
        "BraTS-GLI-00002-001",
    }
    assert groups_of(prepared("topcow-mr")) == groups_of(prepared("topcow-ct"))


def test_promise_without_test_labels_is_divided_by_seed(tmp_path):
    promise12(tmp_path / "set", labelled_test=False)
    prepare(tmp_path / "set", tmp_path / "out.csv", dataset="promise12")
    assert {row.case for row in rows_of(tmp_path)} == {f"Case{number:02d}" for number in range(10)}
    assert len({row.case for row in rows_of(tmp_path) if row.split == "test"}) == 4
    promise12(tmp_path / "whole")
    prepare(tmp_path / "whole", tmp_path / "out.csv", dataset="promise12", overwrite=True)
    assert {row.case for row in rows_of(tmp_path) if row.split == "test"} == {f"test_Case0{n}" for n in range(3)}


def test_atrium_of_255_becomes_class_1(prepared):
    row = next(row for row in rows_of(prepared("la2018")) if row.is_label)
    values = read_grid(row.location, labels=True)
    assert set(np.unique(values.values)) == {0, 1}
    image = read_grid(Location(next((prepared("la2018") / "set").rglob("lgemri.nrrd"))))
    assert np.allclose(image.affine, values.affine)


def test_lesions_are_boxes_in_hounsfield_units(prepared):
    folder = prepared("deeplesion")
    rows = {(row.case, row.role): row for row in rows_of(folder)}
    assert {case: row.split for (case, role), row in rows.items() if role == "image"} == {
        "000001_01_01_109": "train",
        "000001_02_01_014": "train",
        "000002_01_01_162": "val",
        "000003_01_01_030": "test",
    }
    boxes = read_grid(rows["000001_01_01_109", "labels"].location, labels=True).values
    assert boxes[5:11, 4:10].all()
    assert boxes[3:7, 14:18].all()
    assert boxes.sum() == 6 * 6 + 4 * 4
    source, tasks = source_of(folder)
    item = next(item for item in source.items("train") if item.case == "000001_01_01_109")
    stored = read_grid(rows["000001_01_01_109", "image"].location).values
    expected = np.clip((stored - 32768 + 1024) / (1050 + 1024), 0, 1)
    assert np.allclose(source.read(item).images["image"][0].numpy(), expected, atol=1e-4)
    pair = tasks["detection"].encode(source.read(item), {"inputs": ["image"], "class": 1, "highest": 1}, None)
    assert torch.equal(pair.target[0] > 0, torch.from_numpy(boxes > 0))


def test_low_dose_series_become_volumes_in_hounsfield_units(prepared):
    rows = rows_of(prepared("ldct-chest"), "C002")
    assert [row.role for row in rows] == ["image", "noisy"]
    volume = read_grid(rows[0].location)
    rng = np.random.default_rng(1)
    slices = [rng.integers(-1000, 1000, (1, 11, 12))[0].T for _ in range(4)]  # head to feet, in LPS
    assert np.array_equal(volume.values[..., ::-1], np.stack(slices, -1)[::-1, ::-1])
    assert np.allclose(volume.spacing, (0.75, 0.75, 1.5))
    assert groups_of(prepared("ldct-chest")) == {"C002", "C004", "C012", "C016"}


def test_series_that_lacks_a_slice_is_refused(prepared, tmp_path):
    folder = next((prepared("ldct-chest") / "set").rglob("*Full Dose*"))
    shutil.copytree(folder, tmp_path / "series")
    (tmp_path / "series" / "1-002.dcm").unlink()
    with pytest.raises(ValueError, match=r"series: the distances of 3 slices lie between 1\.5 and 3"):
        convert_series(tmp_path / "series", tmp_path / "a.nii.gz")


def test_masks_become_one_map(prepared):
    folder = prepared("totalsegmentator")
    source, _ = source_of(folder)
    assert source.class_names == {"labels": {1: "adrenal gland left", 2: "liver", 3: "spleen"}}
    case = folder / "set" / "set" / "s0000"
    joined = read_grid(next(row.location for row in rows_of(folder, "s0000") if row.is_label), labels=True)
    for index, name in enumerate(("adrenal_gland_left", "liver", "spleen"), 1):
        mask = read_grid(Location(case / "segmentations" / f"{name}.nii.gz"), labels=True).values > 0
        assert np.array_equal(joined.values == index, mask)


def test_made_maps_refuse_what_does_not_fit(prepared, tmp_path):
    lungs = sorted((prepared("montgomery") / "set").rglob("leftMask/*.png"))[0]
    small = prepared("deeplesion") / "out_files" / "000001_01_01_109_labels.png"
    scan = next((prepared("btcv") / "set").rglob("img0001.nii.gz"))
    join_masks({1: lungs, 2: small}, tmp_path / "a.png")
    other = next((prepared("btcv") / "set").rglob("label0001.nii.gz"))
    with pytest.raises(ValueError, match=r"label0001\.nii\.gz: the mask has shape"):
        join_masks({1: lungs, 2: other}, tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"the values .*are not among \[255\]"):
        map_labels(scan, tmp_path / "a.nii.gz", {255: 1})
    with pytest.raises(ValueError, match=r"box 30, 2, 40, 8 lies outside of 24 x 20"):
        paint_boxes(small, [(30, 2, 40, 8)], tmp_path / "a.png")


def test_two_copies_of_a_case_are_refused(prepared, tmp_path):
    shutil.copytree(prepared("btcv") / "set", tmp_path / "one" / "set")
    shutil.copytree(prepared("btcv") / "set", tmp_path / "one" / "copy")
    with pytest.raises(ValueError, match=r"img0001\.nii\.gz.* is the same file of the case; keep one"):
        prepare(tmp_path / "one", tmp_path / "out.csv", dataset="btcv")


def test_folder_that_patterns_begin_with_is_found(prepared, tmp_path):
    inner = prepared("brats-inpainting") / "set" / "ASNR-MICCAI-BraTS2023-Local-Synthesis-Challenge-Training"
    prepare(inner, tmp_path / "out.csv", dataset="brats-inpainting")
    assert len(rows_of(tmp_path)) == len(rows_of(prepared("brats-inpainting")))


def test_licence_that_was_not_read_permits_nothing():
    for public in DATASETS.values():
        assert public.terms.permission is not True or public.terms.checked
    assert DATASETS["totalsegmentator"].terms.permission is None
    assert DATASETS["msd-liver"].terms.permission is True
    assert DATASETS["acdc"].terms.permission is False


def test_another_task_of_the_decathlon_is_refused(tmp_path):
    decathlon(tmp_path, "Task09_Spleen", ("spleen",))
    with pytest.raises(ValueError, match=r"this is not Task03_Liver"):
        prepare(tmp_path / "Task09_Spleen", tmp_path / "out.csv", dataset="msd-liver")


def test_pixels_beside_a_header_are_part_of_the_file(tmp_path):
    path = tmp_path / "a.mhd"
    values = np.random.default_rng(0).integers(0, 900, (6, 5, 4)).astype(np.int16)
    meta_image(path, values)
    before = fingerprint(Location(path))
    volume = read_grid(Location(path))
    assert np.array_equal(volume.values, values[::-1, ::-1])
    assert np.allclose(volume.spacing, (0.6, 0.6, 3.6))
    meta_image(path, values + np.int16(1))
    assert fingerprint(Location(path)) != before
    damage(tmp_path / "a.raw", "half")
    with pytest.raises(ValueError, match=r"a\.mhd.*truncated, 120 of 240 bytes"):
        read_grid(Location(path))
    (tmp_path / "a.raw").unlink()
    with pytest.raises(ValueError, match=r"a\.raw: the file does not exist"):
        read_grid(Location(path))


@pytest.mark.parametrize("pixels", ["../a.raw", "/etc/passwd", "LIST", "a%03d.raw 1 4 1"])
def test_header_that_points_elsewhere_is_refused(tmp_path, pixels):
    meta_image(tmp_path / "a.mhd", np.zeros((6, 5, 4), np.int16))
    text = (tmp_path / "a.mhd").read_text().replace("ElementDataFile = a.raw", f"ElementDataFile = {pixels}")
    (tmp_path / "a.mhd").write_text(text)
    with pytest.raises(ValueError, match=r"a\.mhd|a%03d\.raw 1 4 1: the file does not exist"):
        read_grid(Location(tmp_path / "a.mhd"))


def test_two_commands_lead_from_a_folder_to_training(prepared, tmp_path, monkeypatch, capsys):
    output, config = tmp_path / "lesions.csv", tmp_path / "mine.yaml"
    words = ["--dataset=deeplesion", f"--folder={prepared('deeplesion') / 'set'}", f"--output={output}"]
    mvg_data(monkeypatch, "prepare", *words, f"--config_output={config}")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["fit", f"--config={SCANS}", f"--config={config}", "--print_config"])
    data = yaml.safe_load(capsys.readouterr().out)["data"]
    assert (list(data["sources"]), list(data["tasks"]), data["weights"]) == (["lesions"], ["detection"], None)
    assert data["sources"]["lesions"]["init_args"]["intensity"]["image"]["init_args"] == {"low": 31744, "high": 33818}


def test_commands_list_describe_and_suggest(monkeypatch, capsys):
    mvg_data(monkeypatch, "datasets")
    said = capsys.readouterr().out
    assert all(any(line.startswith(f"{name} ") for line in said.splitlines()) for name in DATASETS)
    mvg_data(monkeypatch, "datasets", "--name=acdc")
    assert "1 right ventricle, 2 myocardium, 3 left ventricle" in capsys.readouterr().out
    for option, words in ((["--dataset=acdcc"], "did you mean acdc"), ([], "either a `layout` or a public `dataset`")):
        with pytest.raises(SystemExit):
            mvg_data(monkeypatch, "prepare", *option, "--folder=x", "--output=y.csv")
        assert words in capsys.readouterr().err


def test_page_is_up_to_date():
    assert PAGE.read_text() == page(tuple(DATASETS.values()), UNREAD), (
        "run `mvg data datasets --output docs/datasets.md`"
    )


def test_every_recipe_has_a_tree_and_states_its_origin():
    assert TREES.keys() == DATASETS.keys()
    assert len([public for public in DATASETS.values() if public.benchmark]) == 13
    for public in DATASETS.values():
        assert all((public.homepage, public.terms.licence, public.terms.weights, public.split, public.tree.source))
        assert abs(sum(public.shares) - 1) < 1e-6
        assert not set(public.class_names.get("labels", {})) & {0}


def test_dicom_writer_of_the_trees_states_slope_and_intercept(prepared):
    path = next((prepared("ldct-chest") / "set").rglob("1-001.dcm"))
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    assert float(reader.GetMetaData("0028|1052")) == -1024
