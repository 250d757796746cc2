"""Suites of the benchmark: cases, runs that go on, processes that share one, leaks, entrants, tables."""

import csv
import gzip
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import records
from benchmarks.entrants import Trivial
from benchmarks.inputs import Inputs, draw_context, workplace
from benchmarks.runner import Run, blocks, run
from benchmarks.suite import load_suite
from mvg import weights
from mvg.cli import main
from mvg.data.exposure import exposure
from mvg.models import CanvasViT, PatchStem
from tasks import Denoising, Segmentation

SUITE = """
name: tiny
protocol: "1"
cases: tiny.cases.csv
shots: [1, 2]
draws: 2
seed: 0
tasks:
  segmentation: {class_path: tasks.Segmentation, variants: {"": {}}}
  denoising: {class_path: tasks.Denoising, variants: {weak: {gaussian: [0.05, 0.05]}}}
  inpainting: {class_path: tasks.Inpainting, variants: {boxes: {kinds: [boxes], share: [0.1, 0.1]}}}
datasets:
  scans:
    source:
      class_path: mvg.data.FolderSource
      init_args:
        root: ROOT/scans
        name: tiny-scans
        modality: MRI
        class_names: {labels: {1: ball, 2: bar}}
        slices: axial
        split: {train: ["p[0-3]"], test: ["p[4-6]"]}
    unseen: {organ: ["p4"]}
    ask: {segmentation: {}, denoising: {}}
  pictures:
    source:
      class_path: mvg.data.FolderSource
      init_args:
        root: ROOT/pictures
        modality: X-ray
        class_names: {labels: {1: disc}}
        split: {train: ["p[0-3]"], test: ["p[4-6]"]}
    ask: {segmentation: {}, inpainting: {}}
"""


def write_nifti(path, values):
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(values, np.diag([-1.0, 2.0, 3.0, 1.0])).to_filename(path)


def write_png(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def suite(tmp_path):
    """A suite of seven volumes and seven pictures; case p6 of the volumes lacks the bar."""
    for number in range(7):
        rng = np.random.default_rng(number)
        labels = np.zeros((18, 16, 5), np.uint8)
        labels[3 : 7 + number % 3, 4:9, 1:4] = 1
        labels[12:15, 2:12, 1:4] = 2 * (number != 6)
        write_nifti(
            tmp_path / f"scans/images/p{number}.nii.gz", (rng.normal(50, 5, labels.shape) + 60 * labels).astype("f4")
        )
        write_nifti(tmp_path / f"scans/labels/p{number}.nii.gz", labels)
        disc = np.zeros((20, 24), np.uint8)
        disc[5 : 11 + number % 2, 6:14] = 1
        write_png(
            tmp_path / f"pictures/images/p{number}.png", (rng.integers(20, 60, disc.shape) + 150 * disc).astype("u1")
        )
        write_png(tmp_path / f"pictures/labels/p{number}.png", disc)
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE.replace("ROOT", str(tmp_path)))
    main(["benchmark", "cases", "--suite", str(path)])
    return path


def network(folder, sources=None):
    made = CanvasViT([16, 16], width=32, depth=1, heads=2, stem=PatchStem(8))
    torch.manual_seed(0)
    tasks = {"segmentation": Segmentation(scheme="binary", channels=1), "denoising": Denoising()}
    return str(weights.save(folder, made, tasks, sources))


def bench(suite, output, *options):
    main(["benchmark", "run", "--suite", str(suite), "--output", str(output), *options])
    return records.read(output)


def test_every_case_metric_shot_and_draw_has_a_record(suite, tmp_path):
    found = bench(suite, tmp_path / "out", "--weights", network(tmp_path / "run/weights"))
    assert len({record.key for record in found}) == (2 + 1 + 1 + 1) * 3 * 2 * 2
    assert {record.entrant for record in found} == {"run"}
    assert {r.metric for r in found if r.task == "inpainting"} == {
        "psnr", "ssim", "mae", "psnr_hole", "ssim_hole", "mae_hole"
    }  # fmt: skip
    absent = [r for r in found if r.case == "p6" and r.structure == "bar"]
    assert {r.metric for r in absent} == {"false_alarm"}
    assert {r.unit for r in found if r.metric == "hd95"} == {"mm", "px"}
    assert {r.case for r in found if "organ" in r.unseen} == {"p4"}
    assert not [r for r in found if r.failure in ("error", "invalid", "unanswered")]
    facts = json.loads((tmp_path / "out/run.json").read_text())
    assert facts["suite"] == found[0].suite == load_suite(suite).name
    assert facts["questions"]["seed"] == 0


def test_an_ended_run_goes_on_and_processes_share_the_work(suite, tmp_path):
    options = ("--entrant", "nearest", "--datasets", "[scans]")
    whole = bench(suite, tmp_path / "one", *options)
    lines = (tmp_path / "one/records.csv").read_text().splitlines(keepends=True)
    (tmp_path / "two").mkdir()
    for name in ("run.json", "records.csv"):
        (tmp_path / "two" / name).write_bytes((tmp_path / "one" / name).read_bytes())
    (tmp_path / "two/records.csv").write_text("".join(lines[: len(lines) // 2 + 1]) + lines[-1][:20])
    assert records.digest(bench(suite, tmp_path / "two", *options)) == records.digest(whole)
    for rank in range(3):
        shared = bench(suite, tmp_path / "three", *options, "--rank", str(rank), "--ranks", "3")
    assert records.digest(shared) == records.digest(whole)
    assert len(list((tmp_path / "three").glob("records-*-of-3.csv"))) == 3


def test_a_finished_run_asks_nothing_again(suite, tmp_path):
    bench(suite, tmp_path / "out", "--entrant", "identity")
    before = (tmp_path / "out/records.csv").read_bytes()
    bench(suite, tmp_path / "out", "--entrant", "identity")
    assert (tmp_path / "out/records.csv").read_bytes() == before


def test_saved_answers_score_as_they_did(suite, tmp_path):
    first = bench(suite, tmp_path / "a", "--entrant", "mean", "--answers", str(tmp_path / "kept"))
    second = bench(suite, tmp_path / "b", "--predictions", str(tmp_path / "kept"))
    assert {(r.case, r.structure, r.metric, r.shot, r.draw, r.value) for r in first} == {
        (r.case, r.structure, r.metric, r.shot, r.draw, r.value) for r in second
    }
    next(tmp_path.glob("kept/scans/segmentation/ball/1-0/p4*")).unlink()
    third = bench(suite, tmp_path / "c", "--predictions", str(tmp_path / "kept"))
    gone = [r for r in third if r.failure == "unanswered"]
    assert len(gone) == 5
    assert {r.value for r in gone if r.metric == "dice"} == {0.0}


@pytest.mark.parametrize("trained", ["p4", "p0"])
def test_weights_are_not_asked_what_trained_them(suite, tmp_path, trained):
    source = load_suite(suite).sets["scans"].source
    source.split = {"train": [trained]}
    folder = network(tmp_path / "run/weights", {"mine": exposure(source)})
    if trained == "p0":
        assert {"scans"} == set(
            bench(suite, tmp_path / "out", "--weights", folder, "--datasets", "[scans]", "--cases", "1")[0].trained_on
        )
        return
    with pytest.raises(SystemExit):
        bench(suite, tmp_path / "out", "--weights", folder)
    assert not (tmp_path / "out").exists()


def test_copies_under_other_names_are_found(suite, tmp_path, capsys):
    copy = tmp_path / "other/images/renamed.nii.gz"
    copy.parent.mkdir(parents=True)
    copy.write_bytes((tmp_path / "scans/images/p5.nii.gz").read_bytes())
    source = type(load_suite(suite).sets["scans"].source)(
        str(copy.parent.parent), {"image": "images"}, split={"train": 1.0}
    )
    with pytest.raises(SystemExit):
        bench(suite, tmp_path / "out", "--weights", network(tmp_path / "w", {"other": exposure(source)}))
    assert "p5" in capsys.readouterr().err


def test_a_patient_for_training_and_for_tests_is_refused(suite, tmp_path, capsys):
    path = tmp_path / "mine.csv"
    path.write_text((tmp_path / "tiny.cases.csv").read_text().replace("scans,p5,p5", "scans,p5,p0"))
    with pytest.raises(SystemExit):
        bench(suite, tmp_path / "out", "--entrant", "mean", "--case_list", str(path))
    assert "patient 'p0'" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["scans", "pictures"])
def test_an_image_for_training_and_for_tests_is_refused_whatever_its_labels(suite, tmp_path, capsys, folder):
    before = (tmp_path / "tiny.cases.csv").read_bytes()
    first = next((tmp_path / folder / "images").glob("p0.*"))
    shutil.copy(first, first.with_name(first.name.replace("p0", "p5")))
    with pytest.raises(SystemExit):
        main(["benchmark", "cases", "--suite", str(suite), "--overwrite", "true"])
    said = capsys.readouterr().err
    assert "one file of 'image' would be shown and asked, as cases 'p0' (train) and 'p5' (test)" in said
    assert (tmp_path / "tiny.cases.csv").read_bytes() == before


@pytest.mark.parametrize(
    "names", ["1: ball, 2: ball", '1: "lesion (old)", 2: "lesion [old]"', '1: "nodule < 3 cm", 2: "nodule > 3 cm"']
)
def test_structures_that_share_a_name_in_files_are_refused(suite, names):
    suite.write_text(suite.read_text().replace("1: ball, 2: bar", names))
    with pytest.raises(ValueError, match=r"are both called .* letters or digits"):
        load_suite(suite)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (r"(p6,test,\w+)\n$", r"\1,more\n", "row 15: a case needs"),
        (r"(p6,test),\w+\n$", r"\1\n", "row 15: a case needs"),
        (r"\Z", "scans,p7\n", "row 16: a case needs"),
        (r",test,(\w+)\n$", r",tset,\1\n", "row 15: the split must be train or test, got 'tset'"),
    ],
)
def test_damaged_lists_of_cases_are_refused(suite, tmp_path, old, new, said):
    path = tmp_path / "tiny.cases.csv"
    text = path.read_text()
    path.write_text(re.sub(old, new, text))
    with pytest.raises(ValueError, match=said):
        _ = load_suite(suite).cases


def test_changed_files_are_refused(suite, tmp_path, capsys):
    write_nifti(tmp_path / "scans/images/p4.nii.gz", np.ones((18, 16, 5), "f4"))
    with pytest.raises(SystemExit):
        bench(suite, tmp_path / "out", "--entrant", "mean")
    assert "not those of the suite" in capsys.readouterr().err


def test_contexts_are_nested_drawn_again_alike_and_show_the_structure(suite, tmp_path):
    read = load_suite(suite)
    question = next(each for each in read.questions() if each.structure == "bar")
    pool = [case for case in read.cases["scans"] if case.split == "train"]
    with workplace() as folder:
        inputs = Inputs(read, question, folder)
        drawn = [[case.case for case in draw_context(inputs, pool, 3, draw)] for draw in range(6)]
        assert drawn[0][:2] == [case.case for case in draw_context(inputs, pool, 2, 0)]
        assert len({tuple(names) for names in drawn}) > 1
        assert all(inputs.shows(case) for case in pool)
        asked = next(case for case in read.cases["scans"] if case.case == "p6")
        assert not inputs.shows(asked)


def test_degradations_depend_on_seed_question_and_case_alone(suite, tmp_path):
    read = load_suite(suite)
    question = next(each for each in read.questions() if each.task == "denoising")
    cases = read.cases["scans"]
    made = []
    for order in (cases[:2], cases[1::-1]):
        with workplace() as folder:
            examples = {case.case: Inputs(read, question, folder).make(case) for case in order}
            made.append({case: example.image.read_bytes() for case, example in examples.items()})
    assert made[0] == made[1]
    assert len(set(made[0].values())) == 2


class Perfect(Trivial):
    """Reads the truth beside the query, and fails on one case."""

    def __init__(self, broken=""):
        super().__init__("identity")
        self.broken = broken

    def __call__(self, image):
        if image.stem == self.broken:
            raise RuntimeError("out of memory")
        from benchmarks.inputs import read_values

        return read_values(image.parent.parent / "targets" / image.name)


def test_the_truth_gets_the_best_value_and_an_error_the_worst(suite, tmp_path):
    read = load_suite(suite)
    entrant = Perfect("p5")
    run(Run(read, entrant, tmp_path / "out"), blocks(read, entrant))
    found = records.read(tmp_path / "out")
    best = {
        "dice": 1,
        "iou": 1,
        "nsd": 1,
        "hd95": 0,
        "volume_error": 0,
        "false_alarm": 0,
        "psnr": 100,
        "ssim": 1,
        "mae": 0,
    }
    for record in found:
        if record.case != "p5":
            assert record.value == pytest.approx(best[record.metric.removesuffix("_hole")]), record
            assert not record.failure
    broken = [record for record in found if record.case == "p5"]
    assert {record.failure for record in broken} == {"error"}
    assert all(record.value in (0, -1, 1) or record.metric == "hd95" for record in broken)


def test_the_swapped_control_shows_another_structure(suite, tmp_path):
    folder = network(tmp_path / "run/weights")
    found = bench(
        suite, tmp_path / "out", "--weights", folder, "--entrant", "swapped", "--shots", "[1]", "--draws", "1"
    )
    assert {record.entrant for record in found} == {"run, swapped"}
    assert {(record.dataset, record.task) for record in found} == {("scans", "segmentation")}


def test_records_become_the_table_of_challenger(suite, tmp_path):
    for name in ("nearest", "mean"):
        bench(suite, tmp_path / name, "--entrant", name, "--datasets", "[pictures]")
    inputs = f"[{tmp_path}/nearest, {tmp_path}/mean]"
    main(["benchmark", "export", "--inputs", inputs, "--output", str(tmp_path / "t.csv"), "--shot", "2"])
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert list(rows[0]) == ["Task", "TestCase", "Algorithm", "MetricValue"]
    assert len(rows) == 3 * 2
    values = [r.value for r in records.read(tmp_path / "mean") if (r.metric, r.case, r.shot) == ("dice", "p4", 2)]
    row = next(row for row in rows if (row["TestCase"], row["Algorithm"]) == ("p4", "mean"))
    assert float(row["MetricValue"]) == pytest.approx(np.mean(values))


def test_packed_records_below_a_folder_are_exported(suite, tmp_path):
    options = ("--datasets", "[pictures]", "--shots", "[1]", "--draws", "1", "--pictures", "false")
    bench(suite, tmp_path / "all/mean", "--entrant", "mean", *options)
    export = ["benchmark", "export", "--inputs", f"[{tmp_path}/all]", "--output"]
    main([*export, str(tmp_path / "plain.csv")])
    plain = tmp_path / "all/mean/records.csv"
    plain.with_name("records.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    main([*export, str(tmp_path / "packed.csv")])
    assert (tmp_path / "packed.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()
    assert (tmp_path / "packed.csv").read_text().count("\n") == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--entrant", "nobody"], "without a network"),
        ([], "name one entrant"),
        (["--entrant", "mean", "--datasets", "[other]"], "no data set"),
        (["--entrant", "mean", "--rank", "2", "--ranks", "2"], "`rank`"),
        (["--entrant", "os.system"], "trusted packages"),
        (["--entrant", "mean", "--draws", "0"], "at least 1"),
    ],
)
def test_wrong_options_say_what_to_do(suite, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit):
        bench(suite, tmp_path / "out", *options)
    assert message in capsys.readouterr().err


def test_shipped_suites_can_be_read():
    from pathlib import Path

    for path in sorted(Path(__file__).parents[1].glob("configs/suites/*.yaml")):
        read = load_suite(path)
        names = [question.name for question in read.questions()]
        assert len(set(names)) == len(names) > 0
        assert read.draws == 8
