"""The protocol on patients: what is asked, of whom, after which examples, and how it is scored."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import real
from benchmarks.evaluation import ABSENT, Protocol, evaluate, spread
from benchmarks.summary import difference, interval, summarise, table
from benchmarks.unet import Slices, specialties, train_unets, unet_entrant
from mvg import weights
from mvg.controls import CONTROLS, TRIVIAL
from mvg.data import Augmentation, EpisodeDataModule, Item, Source, Subject
from mvg.models import CanvasViT, PatchStem
from mvg.report import NETWORK
from tasks import Denoising, Detection, Inpainting, Segmentation, Synthesis

SIZE, SLICES, CLASSES = 16, 7, 3


class Phantom(Source):
    """Patients whose image states the class of every pixel, k / 4; patient 1 lacks class 3."""

    name = "phantom"

    def __init__(self, patients=3):
        self.patients, self.class_names = patients, {"labels": {1: "one", 2: "two", 3: "three"}}

    def items(self, split, cohort=0):
        return [
            Item(f"{split}-{p}", f"{split}-{p}", self._keys(split, p, s), s / (SLICES - 1), s)
            for p in range(self.patients)
            for s in range(SLICES)
        ]

    def _keys(self, split, patient, slice):
        shown = [k for k in self._labels(f"{split}-{patient}", slice).unique().tolist() if k]
        return frozenset({"image", "other", "labels", *(f"labels={k}" for k in shown)})

    def _labels(self, case, slice):
        labels = torch.zeros(SIZE, SIZE, dtype=torch.int64)
        for k in range(1, CLASSES + 1):
            if k <= slice < SLICES - 1 and not (k == 3 and case.endswith("-1")):
                labels[4 * k : 4 * k + 3, slice : slice + 5] = k
        return labels

    def read(self, item):
        labels = self._labels(item.case, item.slice)
        image = labels[None] / 4
        return Subject({"image": image, "other": 1 - image}, {"labels": labels}, item, (1.0, 1.0))


def oracle(image, context_images, context_targets, name):
    """Paints the truth, which the phantom's images hold."""
    _, task, variant = name.split("/")
    if task == "segmentation":
        return ((image * 4).round() == {"one": 1, "two": 2, "three": 3}[variant]).float()
    return 1 - image


def imitator(image, context_images, context_targets, name):
    """Paints the value that its example paints."""
    painted = torch.zeros_like(image)
    for number in range(len(image)):
        values = (context_images[number, 0] * 4).round()[context_targets[number, 0] > 0.5]
        if len(values):
            painted[number] = ((image[number] * 4).round() == values[0]).float()
    return painted


def module(tasks=None, source=None, **options):
    tasks = tasks or {"segmentation": Segmentation(), "synthesis": Synthesis(["image"], ["other"])}
    return EpisodeDataModule([SIZE, SIZE], {"phantom": source or Phantom()}, tasks, near=0.2, **options)


def run(entrants, tasks=None, source=None, **options):
    data = module(tasks, source)
    return evaluate(entrants, data, Protocol(**{"batch_size": 4, **options}))


def values(records, **wanted):
    return [r["value"] for r in records if all(r[key] == value for key, value in wanted.items())]


def test_the_truth_gets_the_best_score_of_every_volume():
    records = run({"oracle": oracle}, trivial=False)
    assert set(values(records, metric="dice")) == {1.0}
    assert set(values(records, metric="iou")) == {1.0}
    assert set(values(records, metric="psnr")) == {100.0}
    assert len(values(records, metric="dice")) == 8
    assert (
        len(values(records, metric=ABSENT, variant="three", case="test-1")) == len(values(records, metric=ABSENT)) == 1
    )


def test_every_slice_is_asked_in_order_after_training_patients_only():
    asked, seen = [], []

    def spy(image, context_images, context_targets, name):
        asked.extend((image * 4).sum((1, 2, 3)).round().int().tolist())
        seen.append(context_targets.flatten(2).amax(2))
        return image

    source = Phantom()
    records = run({"spy": spy}, {"segmentation": Segmentation(classes=[1])}, source, trivial=False)
    truth = [int(source.read(item).labels["labels"].sum()) for item in source.items("test")]
    assert asked == truth
    assert bool((torch.cat(seen) == 1).all())
    assert {record["slices"] for record in records} == {SLICES}


def test_context_never_comes_from_the_split_that_is_scored():
    class Leaky(Phantom):
        def read(self, item):
            read = super().read(item)
            return Subject({**read.images, "image": torch.full((1, SIZE, SIZE), float(item.case[:5] == "train"))},
                           read.labels, item, (1.0, 1.0))  # fmt: skip

    def check(image, context_images, context_targets, name):
        assert float(image.max()) == 0
        assert float(context_images.min()) == 1
        return image

    assert run({"check": check}, source=Leaky(), context_size=4)


@pytest.mark.parametrize("scheme", ["binary", "random", "predefined"])
def test_context_targets_score_alike_in_every_colour_scheme_of_one_class(scheme):
    records = run({}, {"segmentation": Segmentation(scheme=scheme, classes=[1])})
    plain = run({}, {"segmentation": Segmentation(classes=[1])})
    assert values(records, entrant=TRIVIAL[1], metric="dice") == pytest.approx(
        values(plain, entrant=TRIVIAL[1], metric="dice")
    )


def test_swapped_targets_show_who_follows_the_example():
    tasks = {"segmentation": Segmentation()}
    follows, ignores = run({NETWORK: imitator}, tasks), run({NETWORK: oracle}, tasks)
    assert max(values(follows, entrant=CONTROLS[1], metric="dice")) == 0
    assert min(values(follows, entrant=CONTROLS[2], metric="dice")) == 1
    assert min(values(ignores, entrant=CONTROLS[1], metric="dice")) == 1
    assert max(values(ignores, entrant=CONTROLS[2], metric="dice")) == 0


def test_image_tasks_are_asked_kind_by_kind():
    tasks = {"denoising": Denoising(kinds=("gaussian", "poisson")), "inpainting": Inpainting(kinds=("boxes",))}
    records = run({}, tasks)
    assert {(r["variant"], r["metric"]) for r in records} == {
        *((kind, metric) for kind in ("gaussian", "poisson") for metric in ("psnr", "ssim", "mae")),
        *(("boxes", f"{metric}_hole") for metric in ("psnr", "ssim", "mae")),
    }
    assert {r["slices"] for r in records} == {5}


def test_scores_do_not_depend_on_batches_nor_on_what_else_is_asked():
    both = run({"imitator": imitator}, batch_size=5)
    alone = run({"imitator": imitator}, {"segmentation": Segmentation()}, batch_size=64)
    assert [r for r in both if r["task"] == "segmentation"] == alone


def test_what_is_asked_does_not_depend_on_the_negatives_of_training():
    without, most = ({"segmentation": Segmentation(negatives=share)} for share in (0.0, 1.0))
    assert run({NETWORK: oracle}, without) == run({NETWORK: oracle}, most)


def test_slices_are_spread_evenly():
    items = Phantom().items("test")[:SLICES]
    assert [item.slice for item in spread(items, 3)] == [0, 3, 6]
    assert [item.slice for item in spread(items, 1)] == [3]
    assert [item.slice for item in spread(items, None)] == list(range(SLICES))
    records = run({"oracle": oracle}, slices=3, trivial=False)
    assert {record["slices"] for record in records if record["metric"] == "dice"} == {3}


@pytest.mark.parametrize(("options", "message"), [({"split": "train"}, "val or test"), ({"slices": 0}, "at least 1")])
def test_what_cannot_be_asked_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run({}, **options)


def test_unknown_tasks_are_refused():
    with pytest.raises(ValueError, match="not Detection"):
        run({}, {"detection": Detection()})


def test_interval_weighs_variants_alike_and_holds_the_mean():
    values = np.array([[1.0, 0.0], [1.0, np.nan], [1.0, np.nan], [0.0, np.nan]])
    mean, low, high = interval(values)
    assert mean == pytest.approx((0.75 + 0.0) / 2)
    assert low < mean < high
    assert np.isnan(interval(values[:1])[1:]).all()


def test_summary_and_table_count_patients_and_pair_them():
    records = run({NETWORK: oracle})
    summary = summarise(records).set_index(["task", "variant", "metric", "entrant"])
    row = summary.loc[("segmentation", "three", "dice", NETWORK)]
    assert (row["mean"], row["patients"], row["absent"]) == (1.0, 2, 1)
    best, mean, low, high = difference(records, "phantom", "segmentation", "dice")
    means = summarise(records, by_variant=False).set_index(["task", "metric", "entrant"])["mean"]
    scores = {name: means["segmentation", "dice", name] for name in TRIVIAL}
    assert mean == pytest.approx(1 - max(scores.values()))
    assert scores[best] == max(scores.values())
    assert low <= mean <= high
    text = table(records).splitlines()
    assert len(text) == 2 + 2
    assert text[2].startswith("| phantom/segmentation | dice | 3 | 1.000 [1.000, 1.000]")


def test_one_specialist_a_task_but_one_a_direction_of_synthesis():
    tasks = {"all": Segmentation(), "free": Synthesis(), "holes": Inpainting()}
    found = specialties(module(tasks), Protocol())
    assert sorted((s.name, s.classes, len(s.asked)) for s in found) == [
        ("all", 4, 3), ("free", 0, 1), ("free", 0, 1), ("holes", 0, 3)
    ]  # fmt: skip
    with pytest.raises(ValueError, match="binary"):
        specialties(module({"all": Segmentation(scheme="random")}), Protocol())


def test_specialist_learns_from_training_slices_without_what_examples_explain():
    data = module(augmentation=Augmentation(flip=1.0, place=0.0, look=1.0, noise=0.0, blur=0.0))
    segmentation, synthesis = specialties(data, Protocol())
    image, labels, _ = Slices(data, segmentation)[3]
    assert labels.dtype == torch.int64
    assert len(image[0][labels[0] == labels.max()].unique()) == 1
    assert int(labels[0].nonzero()[:, 0].min()) >= 4
    image, target, _ = Slices(data, synthesis)[3]
    torch.testing.assert_close(target, 1 - image)
    assert all(map(torch.equal, Slices(data, synthesis)[3], Slices(data, synthesis)[3]))


def test_specialists_answer_every_question_with_the_class_that_is_asked():
    data, protocol = module(batch_size=2), Protocol(trivial=False)
    trained = train_unets(data, 0.01, protocol, batch_size=2, workers=0)
    records = evaluate({"U-Net": unet_entrant(trained)}, data, protocol)
    assert {r["variant"] for r in records if r["entrant"] == "U-Net"} == {"one", "two", "three", "image to other"}
    names = [f"phantom/segmentation/{name}" for name in ("one", "two", "three")]
    image = torch.rand(2, 1, SIZE, SIZE)
    painted = sum(unet_entrant(trained)(image, image[:, None], image[:, None], name) for name in names)
    assert float(painted.max()) <= 1
    with pytest.raises(ValueError, match="no U-Net has learned"):
        unet_entrant(trained)(image, image[:, None], image[:, None], "phantom/segmentation/four")


def test_a_trained_folder_is_evaluated_from_the_command_line(tmp_path, monkeypatch, capsys):
    network = CanvasViT([SIZE, SIZE], width=32, depth=1, heads=2, stem=PatchStem(8))
    folder = weights.save(tmp_path / "weights", network)
    monkeypatch.setattr(real, "load_data", lambda config, network: module())
    words = ["--weights", str(folder), "--output", str(tmp_path / "out"), "--slices", "3", "--threads", "1"]
    real.main(words)
    text = (tmp_path / "out" / "table.md").read_text()
    assert capsys.readouterr().out.rstrip() == text.rstrip()
    assert "phantom/segmentation/three" in text
    records = pd.read_csv(tmp_path / "out" / "records.csv")
    assert {"network", *TRIVIAL, *CONTROLS[1:]} <= set(records["entrant"])
    assert json.loads((tmp_path / "out" / "protocol.json").read_text())["protocol"]["slices"] == 3
    pictures = {path.name for path in (tmp_path / "out" / "pictures").iterdir()}
    assert pictures == {"phantom-segmentation.png", "phantom-synthesis.png"}
