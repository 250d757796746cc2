"""Runs of suites: controls, several contrasts at once, boxes, quick runs that go on, pictures."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from PIL import Image
from test_suites import bench, network, suite, write_nifti  # noqa: F401

from benchmarks import records
from benchmarks.case_pictures import choose, palette
from benchmarks.entrants import Trivial
from benchmarks.inputs import Inputs, read_values, workplace
from benchmarks.leaderboard.command import quick_entrants
from benchmarks.leaderboard.pictures import read_pictures
from benchmarks.run_facts import is_quick
from benchmarks.runner import Run, blocks, context_of, run
from benchmarks.suite import load_suite, name_of
from mvg.cli import main
from mvg.drawing import COLOUR


class Noted(Trivial):
    """Notes what it is shown; answers with the mean of the targets."""

    def __init__(self, control=""):
        super().__init__("mean")
        self.control, self.seen = control, []

    def set_context(self, images, targets):
        super().set_context(images, targets)
        self.seen.append((images, [read_values(target) for target in targets]))


class Unsure:
    """Answers with 0.7 where the structure of the first example is, which it reads anew for each query."""

    def set_context(self, images, targets):
        self.target = targets[0]

    def __call__(self, image):
        return read_values(self.target) * np.float32(0.7)


class Bright:
    """Answers with what is bright in the query."""

    def set_context(self, images, targets):
        pass

    def __call__(self, image):
        return read_values(image) > 0.5


class Odd:
    """Answers with things that are no numbers."""

    def set_context(self, images, targets):
        pass

    def __call__(self, image):
        shape = read_values(image).shape
        return np.full(shape, None) if len(shape) == 3 else np.full(shape, "a")


FEW = ("--shots", "[1]", "--draws", "1", "--pictures", "false")


def ask_class(suite, output, kind, *options):  # noqa: F811
    path = f"{__name__}.{kind.__name__}"
    return bench(suite, output, "--entrant", path, "--allow-class-path", __name__, *FEW, *options)


def scores(found):
    return {(r.dataset, r.task, r.case, r.structure, r.metric, r.value, r.failure) for r in found}


def changed(path, old, new):
    path.write_text(path.read_text().replace(old, new))
    return path


def test_shuffled_pairs_have_the_targets_of_others_and_nothing_else_changes(suite, tmp_path):  # noqa: F811
    read, entrant = load_suite(suite), Noted("shuffled")
    todo = blocks(read, entrant)
    assert {(block.question.task, block.shot) for block in todo} == {("segmentation", 2)}
    block = next(block for block in todo if block.question.structure == "ball" and not block.draw)
    with workplace() as folder:
        inputs = Inputs(read, block.question, folder)
        cases, pairs = context_of(read, block, inputs, "")
        same, moved = context_of(read, block, inputs, "shuffled")
        assert cases == same
        assert [pair.images for pair in pairs] == [pair.images for pair in moved]
        for pair, other in zip(moved, [*pairs[1:], *pairs[:1]], strict=True):
            assert np.array_equal(read_values(pair.target), read_values(other.target))
            assert np.allclose(nibabel.load(pair.target).affine, pair.affine)


def test_the_shuffled_control_of_weights_is_an_entrant_of_its_own(suite, tmp_path):  # noqa: F811
    folder = network(tmp_path / "run/weights")
    found = bench(suite, tmp_path / "out", "--weights", folder, "--entrant", "shuffled", "--draws", "1")
    assert {(record.entrant, record.shot) for record in found} == {("run, shuffled", 2)}
    assert not {record.failure for record in found} & {"error", "invalid", "unanswered"}


@pytest.fixture
def joint(suite, tmp_path):  # noqa: F811
    """The suite with a second and a third contrast; the second one lies on another grid."""
    for number in range(7):
        values = nibabel.load(tmp_path / f"scans/images/p{number}.nii.gz").get_fdata(dtype=np.float32)
        write_nifti(tmp_path / f"scans/wet/p{number}.nii.gz", 200 - values[:, :12])
        write_nifti(tmp_path / f"scans/dry/p{number}.nii.gz", values**2)
    changed(
        suite,
        "name: tiny-scans",
        "name: tiny-scans\n        roles: {image: images, labels: labels, wet: wet, dry: dry}",
    )
    entry = (
        "joint: {class_path: tasks.Synthesis, variants: {both: {sources: [image, wet], targets: [dry], joint: true}}}"
    )
    changed(suite, "tasks:\n", f"tasks:\n  {entry}\n")
    changed(suite, "ask: {segmentation: {}, denoising: {}}", "ask: {joint: {}}")
    main(["benchmark", "cases", "--suite", str(suite), "--overwrite", "true"])
    return suite


def test_several_contrasts_are_files_on_one_grid(joint):
    read, entrant = load_suite(joint), Noted()
    todo = [block for block in blocks(read, entrant, ["scans"], [2], 1)]
    with workplace() as folder:
        (question,) = {block.question.name: block.question for block in todo}.values()
        example = Inputs(read, question, folder).make(todo[0].cases[0])
        first, second = (read_values(path) for path in example.shown)
        assert first.shape == second.shape == example.truth.shape == (18, 12, 5)
        assert np.corrcoef(first.ravel(), second.ravel())[0, 1] < -0.9


def test_networks_with_one_channel_answer_by_the_mean_of_contrasts(joint, tmp_path):
    folder = network(tmp_path / "run/weights")
    found = bench(joint, tmp_path / "out", "--weights", folder, "--datasets", "[scans]", "--draws", "1")
    assert {record.metric for record in found} == {"psnr", "ssim", "mae"}
    assert not [record for record in found if record.failure]
    for kind in ("identity", "nearest"):
        found = bench(joint, tmp_path / kind, "--entrant", kind, "--datasets", "[scans]", "--draws", "1")
        assert not [record for record in found if record.failure]


def test_boxes_are_asked_and_scored_by_average_precision(suite, tmp_path):  # noqa: F811
    changed(suite, "tasks:\n", 'tasks:\n  detection: {class_path: tasks.Detection, variants: {"": {}}}\n')
    changed(suite, "ask: {segmentation: {}, inpainting: {}}", "ask: {detection: {}}")
    options = ("--datasets", "[pictures]", "--draws", "1")
    found = bench(suite, tmp_path / "mean", "--entrant", "mean", *options)
    assert {record.metric for record in found} == {"ap50", "sensitivity", "precision", "box_iou"}
    assert {record.value for record in found if record.metric == "ap50"} == {1.0}
    found = bench(suite, tmp_path / "net", "--weights", network(tmp_path / "run/weights"), *options)
    assert not {record.failure for record in found} & {"error", "invalid", "unanswered"}


def test_quick_runs_say_so_until_the_rest_is_asked(suite, tmp_path):  # noqa: F811
    out, options = tmp_path / "results/mean", ("--entrant", "mean", "--pictures", "false")
    some = bench(suite, out, *options, "--draws", "1", "--cases", "2", "--shots", "[2]")
    assert is_quick(out)
    assert quick_entrants([tmp_path / "results"]) == ["mean"]
    every = bench(suite, out, *options)
    assert not is_quick(out)
    assert records.digest(every) == records.digest(bench(suite, tmp_path / "once", *options))
    assert {(record.key, record.metric, record.value) for record in some} < {(r.key, r.metric, r.value) for r in every}


def test_small_structures_keep_their_colour_in_pictures_of_few_colours():
    page = np.random.default_rng(0).integers(0, 256, (64, 300, 1)).repeat(3, 2).astype(np.float32)
    page[20:23, 20:23] = (page[20:23, 20:23] + COLOUR) / 2
    few = Image.fromarray(page.round().astype(np.uint8)).quantize(palette=palette(), dither=Image.Dither.NONE)
    red = np.asarray(few.convert("RGB")).astype(int) @ [1, 0, -1] > 60
    assert red[20:23, 20:23].all()
    assert red.sum() == 9


def test_pictures_show_best_median_and_worst_with_examples(suite, tmp_path):  # noqa: F811
    found = bench(suite, tmp_path / "out", "--entrant", "mean")
    pictures = read_pictures(tmp_path / "out")
    rows = {(r.dataset, r.task) for r in found if r.metric in ("dice", "psnr")}
    assert {(p.facts["dataset"], p.facts["task"], p.facts["place"]) for p in pictures} == {
        (*row, place) for row in rows for place in ("best", "median", "worst")
    }
    assert {p.facts["shot"] for p in pictures} == {"2"}
    values = [
        r.value
        for r in found
        if (r.dataset, r.task, r.metric, r.shot, r.draw) == ("scans", "segmentation", "dice", 2, 0)
    ]
    best = next(
        p
        for p in pictures
        if (p.facts["dataset"], p.facts["task"], p.facts["place"]) == ("scans", "segmentation", "best")
    )
    assert best.facts["caption"] == f"dice {max(values):.3f}"
    for entry in json.loads((tmp_path / "out/pictures/index.json").read_text()):
        picture = Image.open(tmp_path / "out/pictures" / entry["file"])
        assert picture.width > 7 * 60
        assert (tmp_path / "out/pictures" / entry["file"]).stat().st_size < 60_000


@pytest.mark.parametrize("places", [{}, {"only": 0}, {"best": 1, "worst": 0}, {"best": 2, "median": 1, "worst": 0}])
def test_no_answer_is_shown_twice(suite, tmp_path, places):  # noqa: F811
    found = bench(suite, tmp_path / "out", "--entrant", "mean", "--pictures", "false")
    first = next(record for record in found if record.metric == "dice" and not record.draw)
    rows = [replace(first, value=number, case=str(number)) for number in range(len(places))]
    asked = {(name_of(first.dataset, first.task, first.variant, first.structure), first.shot, first.draw)}
    assert {place: record.value for place, record in choose(rows, asked).items()} == places


def test_answers_do_not_depend_on_how_many_are_asked_at_once(suite, tmp_path, monkeypatch):  # noqa: F811
    read, made = load_suite(suite), []
    for most in (1, 32):
        monkeypatch.setattr("benchmarks.runner.MOST", most)
        entrant = Trivial("nearest")
        run(Run(read, entrant, tmp_path / str(most)), blocks(read, entrant))
        made.append(records.digest(records.read(tmp_path / str(most))))
    assert made[0] == made[1]


def test_saved_probabilities_score_as_they_did(suite, tmp_path):  # noqa: F811
    changed(suite, "tasks:\n", 'tasks:\n  detection: {class_path: tasks.Detection, variants: {"": {}}}\n')
    changed(suite, "inpainting: {}}\n", "detection: {}}\n")
    changed(suite, "denoising: {}}\n", "detection: {}}\n")
    first = ask_class(suite, tmp_path / "a", Unsure, "--answers", str(tmp_path / "kept"))
    assert {r.metric for r in first if r.value > 0} > {"dice", "ap50"}
    assert scores(bench(suite, tmp_path / "b", "--predictions", str(tmp_path / "kept"), *FEW)) == scores(first)


def test_cases_of_one_name_in_two_folders_are_saved_apart(suite, tmp_path):  # noqa: F811
    lines = ["case,group,split,role,path,modality,sha256"]
    for number, case in enumerate(["A/0", "B/0", "A/4", "B/4"]):
        for role, folder in (("image", "images"), ("labels", "labels")):
            split = "train" if number < 2 else "test"
            lines.append(f"{case},{case},{split},{role},pictures/{folder}/p{number}.png,X-ray,")
    (tmp_path / "sites.csv").write_text("\n".join([*lines, ""]))
    head, _ = suite.read_text().split("datasets:")
    source = f"{{manifest: {tmp_path}/sites.csv, name: sites, class_names: {{labels: {{1: disc}}}}}}"
    entry = f"source: {{class_path: mvg.data.ManifestSource, init_args: {source}}}"
    suite.write_text(f"{head}datasets:\n  sites:\n    {entry}\n    ask: {{segmentation: {{}}}}\n")
    main(["benchmark", "cases", "--suite", str(suite), "--overwrite", "true"])
    first = ask_class(suite, tmp_path / "a", Bright, "--answers", str(tmp_path / "kept"))
    assert {(r.case, r.value) for r in first if r.metric == "dice"} == {("A/4", 1.0), ("B/4", 1.0)}
    assert scores(bench(suite, tmp_path / "b", "--predictions", str(tmp_path / "kept"), *FEW)) == scores(first)


def test_a_filled_hole_that_was_cut_off_is_asked_again(suite, tmp_path):  # noqa: F811
    options = ("--entrant", "mean", "--datasets", "[pictures]", *FEW)
    whole, path = bench(suite, tmp_path / "out", *options), tmp_path / "out/records.csv"
    lines = path.read_text().splitlines(keepends=True)
    start = next(number for number, line in enumerate(lines) if ",inpainting," in line)
    assert [record.metric for record in whole[start - 1 : start + 2]] == ["psnr", "ssim", "mae"]
    path.write_text("".join(lines[: start + 3]) + lines[start + 3][:40])
    assert records.digest(bench(suite, tmp_path / "out", *options)) == records.digest(whole)


def test_a_run_that_ended_within_a_letter_goes_on(suite, tmp_path):  # noqa: F811
    changed(suite, "1: disc", "1: Größe")
    options = ("--entrant", "mean", "--datasets", "[pictures]", *FEW)
    whole, path = bench(suite, tmp_path / "out", *options), tmp_path / "out/records.csv"
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex("ö".encode()) + 1])
    assert records.digest(bench(suite, tmp_path / "out", *options)) == records.digest(whole)


def test_examples_stay_on_the_disk_while_queries_come_and_go(suite, tmp_path, monkeypatch):  # noqa: F811
    whole = ask_class(suite, tmp_path / "one", Unsure, "--datasets", "[pictures]")
    monkeypatch.setattr("benchmarks.inputs.KEPT", 1)
    monkeypatch.setattr("benchmarks.inputs.ASKED_AT_ONCE", 1)
    monkeypatch.setattr("benchmarks.runner.MOST", 1)
    found = ask_class(suite, tmp_path / "two", Unsure, "--datasets", "[pictures]")
    assert records.digest(found) == records.digest(whole)
    assert not {record.failure for record in found} - {""}


def test_saved_pictures_are_scaled_to_the_range_of_images(suite, tmp_path):  # noqa: F811
    options = ("--datasets", "[pictures]", *FEW)
    first = bench(suite, tmp_path / "a", "--entrant", "mean", "--answers", str(tmp_path / "kept"), *options)
    for path in tmp_path.glob("kept/pictures/inpainting/**/*.npy"):
        Image.fromarray((np.load(path) * 255).round().astype(np.uint8)).save(path.with_suffix(".png"))
        path.unlink()
    second = bench(suite, tmp_path / "b", "--predictions", str(tmp_path / "kept"), *options)
    before, after = ({r.case: r.value for r in found if r.metric == "mae"} for found in (first, second))
    assert after == pytest.approx(before, abs=0.5 / 255)
    assert max(after.values()) < 0.9


def test_saved_answers_that_are_damaged_or_on_another_grid_are_invalid(suite, tmp_path):  # noqa: F811
    options = ("--datasets", "[scans]", *FEW)
    first = bench(suite, tmp_path / "a", "--entrant", "mean", "--answers", str(tmp_path / "kept"), *options)
    for path in tmp_path.glob("kept/**/p4.nii"):
        nibabel.Nifti1Image(np.ones((18, 16, 5), np.uint8), np.diag([7.0, 7.0, 7.0, 1.0])).to_filename(path)
    for path in tmp_path.glob("kept/**/p5.nii"):
        path.write_bytes(path.read_bytes()[:-99])
    second = bench(suite, tmp_path / "b", "--predictions", str(tmp_path / "kept"), *options)
    assert {(r.case, r.failure) for r in second if r.case != "p6"} == {("p4", "invalid"), ("p5", "invalid")}
    assert {r.value for r in second if r.case != "p6" and r.metric in ("dice", "psnr")} == {0.0}
    assert {each for each in scores(first) if each[2] == "p6"} == {each for each in scores(second) if each[2] == "p6"}


def test_answers_that_are_no_numbers_are_invalid(suite, tmp_path):  # noqa: F811
    found = ask_class(suite, tmp_path / "out", Odd)
    assert {(record.dataset, record.failure) for record in found} == {("scans", "invalid"), ("pictures", "invalid")}


@pytest.mark.parametrize(("content", "said"), [("", "damaged"), ("[]", "which entrant"), ("{}", "which entrant")])
def test_a_damaged_run_json_is_one_sentence(suite, tmp_path, capsys, content, said):  # noqa: F811
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").write_text(content)
    with pytest.raises(SystemExit):
        bench(suite, tmp_path / "out", "--entrant", "mean", *FEW)
    assert said in capsys.readouterr().err
