"""The manifest, sources that it lists, places in files, and the commands that write and check it."""

import gzip
import os
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_data import folder_of_volumes, source_of
from test_readers import RAS, damage, write_nifti

from mvg import cli
from mvg.data import ManifestSource, Window, manifest
from mvg.data.importers import Choice, assembly
from mvg.data.importers.folders import read_folders
from mvg.data.itk import read_itk
from mvg.data.location import Location, fingerprint, read_grid
from mvg.data.manifest import Row, read_manifest, write_manifest
from mvg.data.readers import read_volume

SCANS = Path(__file__).parents[1] / "configs" / "my_scans.yaml"


def rows_of(*cells):
    """Rows from (case, group, split, role, file)."""
    return [Row(case, group, split, role, Location(Path(file))) for case, group, split, role, file in cells]


def manifest_of(root, split="train"):
    """Writes the manifest of a folder of volumes, all in one split."""
    rows, faults = assembly.examine(read_folders(root, Choice()))
    assert not faults
    write_manifest(root / "set.csv", [replace(row, split=split) for row in rows])
    return root / "set.csv"


def listed(path, **options):
    return ManifestSource(str(path), **{"name": "s", "slices": "axial", "cache": str(path.parent / "cache"), **options})


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_return_from_the_file(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    rows = [
        Row("a", "p, 1", "train", "image", Location(tmp_path / "in" / "a, b.nii.gz", "2"), "MR", "0" * 64),
        Row("a", "p, 1", "train", "labels", Location(Path("/elsewhere/ä.npz"), "train_label/7")),
    ]
    path = tmp_path / f"set{suffix}"
    write_manifest(path, rows)
    assert read_manifest(path) == rows
    if suffix == ".csv":
        assert '"in/a, b.nii.gz#2"' in path.read_text()


def test_parquet_without_its_package_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"needs the package pyarrow"):
        write_manifest(tmp_path / "set.parquet", rows_of(("a", "a", "test", "image", "x")))


def test_moved_manifest_still_finds_its_files(tmp_path):
    path = manifest_of(folder_of_volumes(tmp_path / "old", cases=2))
    (tmp_path / "old").rename(tmp_path / "new")
    assert len(listed(tmp_path / "new" / path.name).items("train")) == 12


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (rows_of(("a", "a", "train", "image", "x"), ("a", "a", "train", "image", "y")), ["'a'", "'image'", "x", "y"]),
        (rows_of(("a", "p", "train", "image", "x"), ("b", "p", "test", "image", "y")), ["'p'", "'a'", "'b'", "test"]),
        (rows_of(("a", "a", "dev", "image", "x")), ["'a'", "'dev'", "train, val, test"]),
        (
            rows_of(("a", "p", "train", "image", "x"), ("a", "q", "train", "labels", "y")),
            ["two patients", "'p'", "'q'"],
        ),
        (rows_of(("a", "a", "train", "image", "x"), ("a", "a", "val", "labels", "y")), ["two splits", "'a'"]),
    ],
)
def test_contradictions_are_refused_and_nothing_is_written(tmp_path, rows, words):
    with pytest.raises(ValueError, match=r"set\.csv") as error:
        write_manifest(tmp_path / "set.csv", rows)
    assert all(word in str(error.value) for word in words)
    assert not list(tmp_path.iterdir())


def test_same_image_in_two_splits_is_refused_but_not_the_same_label_map(tmp_path):
    rows = rows_of(("a", "a", "train", "image", "x"), ("b", "b", "test", "image", "y"))
    copies = [replace(row, sha256="f" * 64) for row in rows]
    with pytest.raises(ValueError, match=r"same image.*x in train and y in test"):
        write_manifest(tmp_path / "set.csv", copies)
    write_manifest(tmp_path / "set.csv", [replace(row, role="labels") for row in copies])
    kept, dropped = assembly.drop_copies(copies)
    assert ([row.case for row in kept], dropped) == (["b"], ["a"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("case,role,path\na,image,x.png\n", "columns ['split'] are missing"),
        ("case,split,role,path\n,train,image,x.png\n", "row 2 has no case"),
        ("case,split,role,path\n", "no rows"),
        ("", "columns"),
        (b"case,split,role,path\n\xff\xfe", "UTF-8"),
    ],
)
def test_wrong_tables_are_refused_in_words(tmp_path, text, words):
    (tmp_path / "set.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"set\.csv") as error:
        read_manifest(tmp_path / "set.csv")
    assert words in str(error.value)


def test_table_of_a_spreadsheet_is_read(tmp_path):
    (tmp_path / "set.csv").write_bytes("\ufeffcase, split ,role,path,note\r\na,test,image,x.png,\r\n".encode())
    assert read_manifest(tmp_path / "set.csv") == rows_of(("a", "a", "test", "image", tmp_path / "x.png"))


def test_manifest_gives_what_its_folder_gives(tmp_path):
    folder = source_of(folder_of_volumes(tmp_path, cases=3))
    table = listed(manifest_of(tmp_path))
    assert list(table.items("train")) == list(folder.items("train"))
    assert (len(table.items("val")), table.dims) == (0, folder.dims)
    for item in folder.items("train")[::5]:
        one, other = folder.read(item), table.read(item)
        assert torch.equal(one.images["image"], other.images["image"])
        assert torch.equal(one.labels["labels"], other.labels["labels"])
        assert (one.spacing, one.ranges) == (other.spacing, other.ranges)


@pytest.mark.parametrize("how", ["touch", "array", "row", "seal"])
def test_sealed_index_opens_without_looking_at_cases_until_something_changes(tmp_path, monkeypatch, how):
    path = manifest_of(folder_of_volumes(tmp_path, cases=2))
    source, marked = listed(path), []
    before = list(source.items("train"))
    monkeypatch.setattr(
        ManifestSource,
        "mark",
        lambda self, case, files, mark=ManifestSource.mark: (marked.append(case), mark(self, case, files))[1],
    )
    assert list(listed(path).items("train")) == before
    assert not marked
    if how == "touch":
        os.utime(tmp_path / "images" / "p1.nii.gz", ns=(0, 0))
    if how == "array":
        next(source.folder.glob("*.npy")).unlink()
    if how == "row":
        path.write_text(path.read_text().replace("p1,p1,train,", "p1,q1,train,"))
    if how == "seal":
        (source.folder / "seal.json").write_text("[")
    assert [item.case for item in listed(path).items("train")] == [item.case for item in before]
    assert sorted(marked) == ["p0", "p1"]


def test_changed_pixels_beside_a_header_break_the_seal(tmp_path):
    (tmp_path / "images").mkdir()
    header = tmp_path / "images" / "p0.mhd"
    sitk.WriteImage(sitk.GetImageFromArray(np.full((6, 12, 10), 9, dtype=np.uint8)), str(header))
    path = tmp_path / "set.csv"
    path.write_text("case,split,role,path\np0,train,image,images/p0.mhd\n")
    first = listed(path).seal()
    os.utime(header.with_suffix(".raw"), ns=(0, 0))
    second = listed(path).seal()
    header.with_suffix(".raw").unlink()
    assert len({first, second, listed(path).seal()}) == 3
    assert listed(path).seal() is None


@settings(max_examples=60, deadline=None)
@given(
    cells=st.lists(
        st.tuples(*map(st.sampled_from, ("ab", "pq", ("train", "val", "dev"), ("image", "labels"), ("", "f")))),
        min_size=1,
        max_size=5,
    )
)
def test_quick_look_at_columns_never_misses_a_fault(cells):
    columns = dict(zip(("case", "group", "split", "role", "sha256"), zip(*cells, strict=True), strict=True))
    rows = [
        Row(case, group, split, role, Location(Path(str(n))), "", mark)
        for n, (case, group, split, role, mark) in enumerate(cells)
    ]
    agrees = manifest._agrees({"path": [], "modality": [], **columns})
    assert agrees == (not manifest.find_faults(rows))


def test_second_start_reads_no_image_and_a_changed_one_is_refused(tmp_path, monkeypatch):
    path, options = manifest_of(folder_of_volumes(tmp_path, cases=2)), {"intensity": {"image": Window(0, 255)}}
    listed(path, **options).items("train")
    with monkeypatch.context() as patch:
        patch.setattr("mvg.data.file_source.prepare", lambda *_: pytest.fail("an image was read"))
        patch.setattr("mvg.data.manifest_source.fingerprint", lambda *_: pytest.fail("a file was hashed"))
        assert len(listed(path, **options).items("train")) == 12
    write_nifti(tmp_path / "images" / "p1.nii.gz", np.full((10, 12, 6), 51.0))
    with pytest.raises(ValueError, match=r"p1\.nii\.gz.*not the one"):
        listed(path, **options).items("train")
    again = listed(manifest_of(tmp_path), **options)
    image = again.read(again.items("train")[-1]).images["image"]
    assert torch.allclose(image, torch.tensor(0.2), atol=1e-4)


def test_missing_files_and_missing_roles_are_named(tmp_path):
    path = manifest_of(folder_of_volumes(tmp_path, cases=2))
    with pytest.raises(ValueError, match="'t1' must be there"):
        listed(path, reference="t1").items("train")
    (tmp_path / "labels" / "p0.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"1 of 4 files.*p0\.nii\.gz"):
        listed(path).items("train")


def test_case_without_labels_offers_its_image(tmp_path):
    root = folder_of_volumes(tmp_path, cases=2)
    (root / "labels" / "p1.nii.gz").unlink()
    items = listed(manifest_of(root)).items("train")
    assert any("labels" in item.keys for item in items if item.case == "p0")
    assert {key for item in items if item.case == "p1" for key in item.keys} == {"image"}


@pytest.mark.parametrize(
    ("text", "path", "part"),
    [
        ("a.nii.gz#2", "a.nii.gz", "2"),
        ("b.npz#train_images/17", "b.npz", "train_images/17"),
        ("c#1/a.png", "c#1/a.png", ""),
        ("x#3.nii.gz", "x#3.nii.gz", ""),
        ("d.nii#1/a.nii", "d.nii#1/a.nii", ""),
    ],
)
def test_places_are_read_and_written(tmp_path, text, path, part):
    location = Location.parse(text, tmp_path)
    assert (location.path, location.part) == (tmp_path / path, part)
    assert location.text(tmp_path) == text


def test_channels_of_a_file_are_its_volumes(tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 6, 4, 3)).astype(np.float32)
    path = write_nifti(tmp_path / "a.nii.gz", values)
    for channel in range(3):
        np.testing.assert_array_equal(read_grid(Location(path, str(channel))).values, values[..., channel])
    for part, words in (("3", "it holds 3"), ("", "3D volume is needed")):
        with pytest.raises(ValueError, match=words):
            read_grid(Location(path, part))


def archive(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def test_entries_of_archives_are_pictures_or_volumes(tmp_path):
    rng = np.random.default_rng(0)
    grey, cubes = rng.integers(0, 256, (3, 8, 9), np.uint8), rng.integers(0, 256, (2, 5, 6, 7), np.uint8)
    colour = np.repeat(grey[..., None], 3, axis=-1)
    path = archive(tmp_path / "a.npz", grey=grey, colour=colour, cubes=cubes)
    read = {name: read_grid(Location(path, f"{name}/1")).values for name in ("grey", "colour", "cubes")}
    np.testing.assert_array_equal(read["grey"], grey[1])
    np.testing.assert_allclose(read["colour"], grey[1], atol=1e-3)
    np.testing.assert_array_equal(read["cubes"], cubes[1])
    assert fingerprint(Location(path, "grey/0")) != fingerprint(Location(path, "grey/1"))
    for part, words in (("grey/3", "holds 3 images"), ("blue/0", "no array 'blue'"), ("", "array and number")):
        with pytest.raises(ValueError, match=words):
            read_grid(Location(path, part))


@pytest.mark.parametrize("how", ["half", "flip", "empty", "text"])
def test_damaged_archives_are_refused_by_name(tmp_path, how):
    path = archive(tmp_path / "a.npz", train_images=np.random.default_rng(0).integers(0, 256, (3, 40, 40), np.uint8))
    damage(path, how)
    with pytest.raises(ValueError, match=r"a\.npz"):
        read_grid(Location(path, "train_images/0"))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_other_formats_read_as_nifti_does(tmp_path, ending, packed, kind):
    values = np.random.default_rng(0).integers(0, 99, (5, 6, 4)).astype(kind)
    turned = nibabel.Nifti1Image(values.astype(np.float32), RAS[[1, 0, 2, 3]])
    turned.to_filename(tmp_path / "a.nii")
    image = sitk.Cast(sitk.ReadImage(str(tmp_path / "a.nii")), sitk.GetImageFromArray(values).GetPixelID())
    sitk.WriteImage(image, str(tmp_path / f"a{ending}"), packed)
    read, expected = read_itk(tmp_path / f"a{ending}"), read_volume(tmp_path / "a.nii")
    np.testing.assert_array_equal(read.values, expected.values)
    np.testing.assert_allclose(read.affine, expected.affine, atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
@pytest.mark.parametrize("how", ["half", "empty", "text"])
def test_damaged_files_of_other_formats_are_refused_before_they_are_read(tmp_path, monkeypatch, ending, packed, how):
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(9, 9, 9))), str(path), packed)
    damage(path, how)
    monkeypatch.setattr(sitk, "ReadImage", lambda *_: pytest.fail("the file was read"))
    with pytest.raises(ValueError, match=rf"a\{ending}"):
        read_itk(path)


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_header_that_claims_too_much_is_refused(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5), np.uint8)), str(path))
    path.write_bytes(path.read_bytes().replace(b"5 4 3", b"5000 4000 3000"))
    with pytest.raises(ValueError, match="claims 60000000000 bytes"):
        read_itk(path)


def mvg_data(monkeypatch, *words):
    """Runs `mvg data` in this process."""
    point = EntryPoint("data", "mvg.data.commands:commands", cli.GROUP)
    monkeypatch.setattr(cli, "commands", lambda: {"data": point})
    cli.main(["data", *map(str, words)])


def test_prepared_set_is_a_configuration_and_passes_its_check(tmp_path, monkeypatch, capsys):
    root, output = folder_of_volumes(tmp_path / "set", cases=6), tmp_path / "set.csv"
    words = ["prepare", "--layout=folders", f"--folder={root}", f"--output={output}", "--split=0.5,0.25,0.25"]
    mvg_data(monkeypatch, *words, "--group_pattern=(p.)")
    with pytest.raises(SystemExit):
        cli.main(["fit", f"--config={SCANS}", f"--config={output.with_suffix('.yaml')}", "--print_config"])
    sources = yaml.safe_load(capsys.readouterr().out)["data"]["sources"]
    assert list(sources) == ["set"]
    assert sources["set"]["init_args"]["manifest"] == str(output)
    mvg_data(monkeypatch, "check", f"--manifest={output}", f"--cache={tmp_path / 'cache'}")
    said = capsys.readouterr().out
    assert "6 cases of 6 patients" in said
    assert "Class 2 of labels: in 3 cases." in said
    assert Image.open(tmp_path / "set.png").size > (160, 160)


def test_all_damaged_files_are_named_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    root = folder_of_volumes(tmp_path / "set", cases=3)
    damage(root / "images" / "p0.nii.gz", "half")
    (root / "labels" / "p1.nii.gz").write_bytes(gzip.compress(b"nothing"))
    with pytest.raises(SystemExit) as stop:
        mvg_data(monkeypatch, "prepare", "--layout=folders", f"--folder={root}", f"--output={tmp_path / 'set.csv'}")
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.count("\n") == 1
    assert "2 files" in said
    assert "images/p0.nii.gz" in said
    assert "labels/p1.nii.gz" in said
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--layout=analyze", "nnunet, decathlon"),
        ("--split=0.5,0.5", "train, val, test"),
        ("--split=a,b,c", "three shares"),
        ("--split=0.5,0.6,0.7", "sum to 1"),
        ("--group_pattern=(x)", "does not match"),
        ("--image=t1", "cannot be the image"),
    ],
)
def test_wrong_options_end_with_a_sentence(tmp_path, monkeypatch, capsys, option, words):
    root = folder_of_volumes(tmp_path / "set", cases=1)
    base = ["prepare", "--layout=folders", f"--folder={root}", f"--output={tmp_path / 'set.csv'}"]
    with pytest.raises(SystemExit) as stop:
        mvg_data(monkeypatch, *base, option)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_existing_manifest_is_kept_unless_told(tmp_path, monkeypatch, capsys):
    root, output = folder_of_volumes(tmp_path / "set", cases=2), tmp_path / "set.csv"
    output.write_text("mine")
    words = ["prepare", "--layout=folders", f"--folder={root}", f"--output={output}"]
    with pytest.raises(SystemExit):
        mvg_data(monkeypatch, *words)
    assert (output.read_text(), "--overwrite" in capsys.readouterr().err) == ("mine", True)
    mvg_data(monkeypatch, *words, "--overwrite=true")
    assert len(read_manifest(output)) == 4


def test_shares_never_divide_a_patient_of_a_stated_split():
    cells = [(f"c{number}", f"p{number // 2}", "test" if number == 0 else "", "image", "x") for number in range(20)]
    rows = assembly.decide_splits(rows_of(*cells), {"train": 0.8, "val": 0.2, "test": 0.0}, 0)
    assert {row.split for row in rows if row.group == "p0"} == {"test"}
    assert all(len({row.split for row in rows if row.group == group}) == 1 for group in {row.group for row in rows})
    assert [row.split for row in rows].count("test") == 2


def test_role_named_image_is_the_first_that_most_cases_have():
    rows = rows_of(("a", "a", "", "t1", "x"), ("a", "a", "", "t2", "y"), ("b", "b", "", "t2", "z"))
    assert [row.role for row in assembly.name_image(rows, None)] == ["t1", "image", "image"]
    assert [row.role for row in assembly.name_image(rows, "t1")] == ["image", "t2", "t2"]
