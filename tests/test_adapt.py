"""The command `mvg adapt`: episodes of a few cases, validation, files in and files out."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from test_readers import write_nifti

import tasks
from mvg import weights
from mvg.adaptation import command
from mvg.adaptation.cases import Case, CaseEpisodes, HeldOutEpisodes, context_limit, read_cases
from mvg.adaptation.methods import ADAPTER, FACTS, Adaptation, describe_adapter
from mvg.adaptation.training import Plan, divide, judge
from mvg.adaptation.volumes import Windows
from mvg.cli import main
from mvg.data import Augmentation
from mvg.data.preparation import AXES
from mvg.models import CanvasViT, ConvStem, UNetDecoder
from mvg.next_scale import TeacherForcing
from mvg.objective import Objective
from mvg.prediction.context import Example, find_pairs
from mvg.prediction.predictor import Predictor
from mvg.prediction.scale_predictor import ScalePredictor
from mvg.prediction.slices import Slice
from mvg.prediction.volume_predictor import VolumePredictor

SIZE = (16, 16)


def case(number, classes=(1,), slices=1):
    """A case whose pixels tell its name, so that episodes show where they come from."""
    entries = []
    for position in range(slices):
        labels = torch.zeros(SIZE, dtype=torch.int64)
        for k in classes:
            labels[4 * k : 4 * k + 3] = k
        image = torch.full((1, *SIZE), (number + 1) / 10)
        entries.append(Slice(Example(image, labels), position / slices, dict.fromkeys(classes, 48)))
    return Case(f"case{number}", tuple(entries))


def names_in(images):
    return {round(float(image.mean()) * 10) - 1 for image in images}


def test_no_query_is_its_own_example():
    episodes = CaseEpisodes([case(n) for n in range(4)], [(1,)], tasks.Segmentation(), 1, 40, 1, examples=3)
    seen = set()
    for number in range(40):
        episode = episodes[number]
        query, context = names_in(episode.image), names_in(episode.context_images[0])
        assert not query & context
        assert len(context) == episode.context_size
        seen |= query
    assert seen == {0, 1, 2, 3}


def test_a_class_is_asked_alone_and_shown_by_every_example():
    cases = [case(0, (1, 2)), case(1, (1, 2)), case(2, (2,))]
    episodes = CaseEpisodes(cases, [(1,), (2,)], tasks.Segmentation(), 1, 30, 1, examples=2)
    for number in range(30):
        episode = episodes[number]
        assert episode.context_targets.flatten(2).sum(2).min() == 48
        assert episode.target.sum() in (0, 48)


def test_one_case_is_its_own_example_after_other_changes():
    change = Augmentation(place=1.0, look=1.0)
    episode = CaseEpisodes([case(0)], [(1,)], tasks.Segmentation(), 1, 4, 1, augmentation=change)[0]
    assert episode.context_size == 1
    assert not torch.equal(episode.image, episode.context_images[:, 0])


def test_episodes_are_functions_of_seed_and_index_and_batches_share_a_context_size():
    cases = [case(n, slices=3) for n in range(3)]
    one, other = (
        CaseEpisodes(cases, [(1,)], tasks.Segmentation(), 1, 32, 4, augmentation=Augmentation(), seed=5) for _ in "ab"
    )
    assert torch.equal(one[7].context_images, other[7].context_images)
    sizes = [one[number].context_size for number in range(32)]
    assert all(len(set(sizes[start : start + 4])) == 1 for start in range(0, 32, 4))
    assert len(set(sizes)) > 1


@pytest.mark.parametrize(("counts", "limit"), [((1,), 1), ((1, 1), 1), ((1,) * 9, 4), ((8,), 4), ((2, 3), 2)])
def test_examples_are_as_many_as_other_cases_hold(counts, limit):
    assert context_limit([case(n, slices=count) for n, count in enumerate(counts)], 4) == limit


def test_held_out_queries_see_training_cases_alone_and_stay_the_same():
    training = CaseEpisodes([case(n) for n in range(3)], [(1,)], tasks.Segmentation(), 1, 8)
    held = HeldOutEpisodes(training, [case(7), case(8)])
    assert [names_in(held[n].image) for n in range(2)] == [{7}, {8}]
    assert all(names_in(held[n].context_images[0]) <= {0, 1, 2} for n in range(2))
    assert torch.equal(held[0].context_images, held[0].context_images)
    with pytest.raises(ValueError, match="show no class of the others"):
        HeldOutEpisodes(training, [case(7, (2,))])


@pytest.mark.parametrize(
    ("number", "validation", "how", "folds"),
    [
        (1, "auto", "none", 0),
        (3, "auto", "leave-one-out", 3),
        (10, "auto", "held-out", 1),
        (2, "held-out", "held-out", 1),
    ],
)
def test_cases_are_held_out_once_each(number, validation, how, folds):
    cases = [case(n) for n in range(number)]
    chosen, found = divide(cases, validation, 0)
    assert (chosen, len(found)) == (how, folds)
    for left, held in found:
        assert left
        assert held
        assert sorted(c.name for c in left + held) == [c.name for c in cases]


def test_one_case_cannot_be_left_out():
    with pytest.raises(ValueError, match="leave-one-out validation needs at least 2 cases, got 1"):
        divide([case(0)], "leave-one-out", 0)


def test_the_best_step_is_that_of_the_mean_curve():
    curves = [[(0, 0.1), (5, 0.9), (9, 0.2)], [(0, 0.3), (5, 0.1)]]
    facts = judge("leave-one-out", tasks.Segmentation(), "dice", curves, [1, 1])
    assert (facts["best_step"], facts["before"], facts["after"]) == (5, 0.2, 0.5)


def test_trainings_that_end_after_different_steps_are_judged_where_all_have_come():
    curves = [[(0, 0.5), (18, 0.86)], [(0, 0.5), (20, 0.7), (25, 0.6)], [(0, 0.5), (17, 0.9)]]
    facts = judge("leave-one-out", tasks.Segmentation(), "dice", curves, [1, 1, 1])
    assert facts["best_step"] == 17
    assert facts["after"] == pytest.approx((0.84 + 0.67 + 0.9) / 3)


@pytest.mark.parametrize("options", [{"steps": 5, "minutes": 1.0}, {"steps": None}, {"steps": 0}, {"seed": -1}])
def test_plans_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=r"steps|seed"):
        Plan(Adaptation(), "weights", **options)


# ---------------------------------------------------------------------- command


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Six pictures of a dark square and weights of a small network; the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("context/images", "context/labels"):
        Path(name).mkdir(parents=True)
    for number in range(6):
        rng = np.random.default_rng(number)
        labels = np.zeros((20, 24), np.uint8)
        top, left = rng.integers(2, 10, 2)
        labels[top : top + 8, left : left + 8] = 1
        image = (220 - 160 * labels.astype(int) + rng.integers(0, 30, labels.shape)).astype(np.uint8)
        Image.fromarray(image).save(f"context/images/{number}.png")
        Image.fromarray(labels).save(f"context/labels/{number}.png")
    torch.manual_seed(0)
    parts = {
        "stem": ConvStem(widths=[16, 16]),
        "decoder": UNetDecoder(),
        "objective": Objective(cross_entropy=1, dice=1),
    }
    made = CanvasViT(SIZE, width=16, depth=1, heads=1, **parts)
    weights.save("weights", made, {"segmentation": tasks.Segmentation(), "inpainting": tasks.Inpainting()})
    return tmp_path


def keep(number):
    for path in Path("context").glob("*/*"):
        if int(path.stem) >= number:
            path.unlink()


def adapt(*options, output="adapter"):
    words = ["--weights", "weights", "--context", "context", "--output", output, "--steps", "10"]
    main(["adapt", *words, "--batch", "4", *([] if "--task" in options else ["--task", "segmentation"]), *options])


def error_of(capsys, run):
    with pytest.raises(SystemExit) as stopped:
        run()
    said = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert "Traceback" not in "".join(said)
    return said[-1]


def test_command_learns_and_prediction_takes_the_adapter(folder):
    before = weights.load("weights").state_dict()
    adapt("--method", "full", "--learning-rate", "0.01", "--steps", "60", "--patience", "10")
    facts = json.loads(Path("adapter", FACTS).read_text())
    assert facts["validation"]["how"] == "held-out"
    assert facts["validation"]["after"] > facts["validation"]["before"] + 0.1
    assert facts["validation"]["after"] == max(score for _, score in facts["validation"]["curve"])
    assert str(folder) not in json.dumps(facts)
    after = weights.load("weights").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    words = ["--weights", "weights", "--context", "context", "--input", "context/images/0.png", "--output"]
    main(["predict", *words, "plain.png", "--task", "segmentation"])
    main(["predict", *words, "adapted.png", "--adapter", "adapter"])
    truth = np.asarray(Image.open("context/labels/0.png"))
    wrong = [int((np.asarray(Image.open(name)) != truth).sum()) for name in ("plain.png", "adapted.png")]
    assert wrong[1] < wrong[0]
    assert json.loads(Path("adapted.json").read_text())["adapter"]["folder"] == "adapter"


@pytest.mark.parametrize(("number", "how"), [(1, "none"), (2, "leave-one-out")])
def test_few_cases_choose_their_validation(folder, number, how):
    keep(number)
    adapt("--method", "prompt", "--tokens", "2")
    facts = describe_adapter("adapter")
    assert (facts["cases"], facts["validation"]["how"]) == (number, how)
    assert Path("adapter", ADAPTER).stat().st_size < 10_000
    assert Predictor.from_pretrained("weights", adapter="adapter").task.is_label


def test_holes_that_files_do_not_state_are_scored_over_the_whole_image(folder):
    keep(3)
    for path in Path("context/labels").iterdir():
        path.write_bytes((Path("context/images") / path.name).read_bytes())
    adapt("--task", "inpainting", "--method", "head")
    assert describe_adapter("adapter")["validation"]["metric"] == "psnr"


def test_the_same_command_gives_the_same_adapter(folder):
    keep(2)
    for output in ("one", "two"):
        adapt("--validation", "none", "--precision", "32", output=output)
    assert Path("one", ADAPTER).read_bytes() == Path("two", ADAPTER).read_bytes()


def test_mistakes_are_named_before_training(folder, capsys):
    def said(*options):
        return error_of(capsys, lambda: adapt(*options))

    assert "expected one of prompt, lora, head, full, got 'tune'" in said("--method", "tune")
    assert "not for both" in said("--minutes", "1")
    assert "psnr_hole is not defined" in said("--task", "inpainting")
    Path("adapter").mkdir()
    assert "it exists; name another" in said()
    assert "is no adapter, so it is not replaced" in said("--overwrite")
    Path("adapter").rmdir()
    keep(1)
    assert "needs at least 2 cases, got 1" in said("--validation", "leave-one-out")
    Image.new("L", (24, 20)).save("context/labels/0.png")
    assert "show no class" in said()
    keep(0)
    assert "context/images: no picture, no volume" in said()


# ---------------------------------------------------------------------- volumes


@pytest.fixture
def volumes(tmp_path, monkeypatch):
    """Four volumes of a bright block, each of its own size; the working directory."""
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        rng = np.random.default_rng(number)
        labels = np.zeros((18 + number, 14, 9))
        labels[3:9, 4:10, 2:7] = 1
        write_nifti(Path(f"context/images/{number}.nii.gz"), 200 * labels + rng.normal(100, 10, labels.shape))
        write_nifti(Path(f"context/labels/{number}.nii.gz"), labels, dtype=np.uint8)
    return tmp_path


def save_weights(size, sources=None):
    torch.manual_seed(0)
    made = CanvasViT(size, width=16, depth=1, heads=1, stem=ConvStem(widths=[16, 16]), decoder=UNetDecoder())
    weights.save("weights", made, {"segmentation": tasks.Segmentation()}, sources)


@pytest.mark.parametrize("method", ["lora", "prompt", "head"])
def test_networks_for_volumes_are_adapted_to_whole_volumes_and_answer_with_the_adapter(volumes, method):
    save_weights((8, 8, 8))
    adapt("--method", method, "--steps", "4", "--batch", "2", "--window", "[0, 400]")
    facts = describe_adapter("adapter")
    assert (facts["cases"], facts["validation"]["how"], facts["window"]) == (4, "leave-one-out", [0, 400])
    words = ["--weights", "weights", "--adapter", "adapter", "--context", "context", "--context-size", "1"]
    main(["predict", *words, "--input", "context/images/3.nii.gz", "--output", "answer.nii.gz"])
    assert nibabel.load("answer.nii.gz").shape == (21, 14, 9)
    assert json.loads(Path("answer.json").read_text())["range"] == [0, 400]


def test_windows_of_a_batch_are_all_whole_or_all_finer_and_show_what_is_asked(volumes):
    save_weights((8, 8, 8))
    predictor = ScalePredictor.from_pretrained("weights")
    cases, groups = read_cases(predictor, find_pairs(Path("context"), None), None)
    windows = Windows((8, 8, 8), TeacherForcing(first=0.5))
    episodes = CaseEpisodes(cases, groups, tasks.Segmentation(), 1, 40, 2, windows=windows)
    made = [episodes[number] for number in range(40)]
    fine = [episode.coarse_image is not None for episode in made]
    assert all(first == second for first, second in zip(fine[::2], fine[1::2], strict=True))
    assert 0 < sum(fine) < 40
    assert all(episode.image.shape == (1, 1, 8, 8, 8) for episode in made)
    whole = [episode for episode, finer in zip(made, fine, strict=True) if not finer]
    assert all(episode.context_targets.flatten(2).amax(2).min() == 1 for episode in whole)
    assert torch.equal(made[7].image, episodes[7].image)
    held = HeldOutEpisodes(CaseEpisodes(cases[1:], groups, tasks.Segmentation(), 1, 2, windows=windows), cases[:1])[0]
    assert held.image.shape[2:] == held.context_images.shape[3:] == (12, 12, 9)


def test_python_takes_window_and_slices_of_an_adapter_as_the_command_does(volumes):
    save_weights(SIZE)
    adapt("--method", "head", "--steps", "1", "--validation", "none", "--window", "[0, 400]", "--slices", "coronal")
    predictor = VolumePredictor.from_pretrained("weights", adapter="adapter")
    assert (predictor.slices, predictor.rule.limits(np.zeros((2, 2, 2), np.float32), None)) == ("coronal", (0, 400))
    given = VolumePredictor.from_pretrained("weights", adapter="adapter", window=(1, 2))
    assert given.rule.limits(np.zeros((2, 2, 2), np.float32), None) == (1, 2)


@pytest.mark.parametrize(("options", "axis"), [((), 1), (("--slices", "axial"), 2)])
def test_volumes_are_cut_as_the_weights_or_the_command_say_and_so_are_queries(volumes, options, axis):
    save_weights(SIZE, {"scans": {"licence": "CC0", "slices": "coronal", "trim": True}})
    seen = []
    read = command.read_cases
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "read_cases", lambda *words: seen.append(words[2]()) or read(*words))
        adapt("--method", "head", "--steps", "2", "--validation", "none", *options)
    assert (AXES[seen[0].slices], seen[0].trim) == (axis, True)
    words = ["--weights", "weights", "--adapter", "adapter", "--context", "context"]
    main(["predict", *words, "--input", "context/images/0.nii.gz", "--output", "answer.nii.gz"])
    assert AXES[json.loads(Path("answer.json").read_text())["slices"]] == axis
