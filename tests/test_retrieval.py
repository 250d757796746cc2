"""Which examples a query is shown, what a run needs, and how sure its answers are."""

import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import torchio
from PIL import Image
from test_next_scale import Told
from test_predictor import SIZE, Copy, Oracle, blob, tiny
from test_volume_predictor import SHAPE, Top, predictor, values, write
from test_volume_predictor import SIZE as PLANE

import tasks
from benchmarks import context_choice
from mvg import ScalePredictor, VolumePredictor, weights
from mvg.data import FolderSource, Window
from mvg.next_scale import look
from mvg.prediction.context import PairFiles
from mvg.prediction.memory import LiveBytes, fit_batch, need_of
from mvg.prediction.passes import Pass, Shelf, bytes_of
from mvg.prediction.predictor import Predictor
from mvg.prediction.retrieval import Chooser, NetworkLook, Table, distance, far_apart, nearest
from mvg.prediction.trained import stored_cut, stored_rules
from mvg.prediction.uncertainty import Agreement, draw_members, flips_of


class Left(Oracle):
    """Paints what is bright in the left half of each picture."""

    def answer(self, image, memory, coarse=None):
        painted = (image > 0.5).float() * self.scale
        painted[..., image.shape[3] // 2 :] = 0
        return painted


PAIRS = [PairFiles(f"{k:02}", Path(f"{k}"), Path("t")) for k in range(12)]


def unit(*angles):
    return torch.tensor([[np.cos(a), np.sin(a)] for a in angles], dtype=torch.float32)


# ---------------------------------------------------------------- choice


def test_nearest_is_by_angle_and_first_of_equals():
    assert nearest(unit(0, 1, 0.5, 0.5), unit(0.55)[0], 3) == [2, 3, 1]


def test_far_apart_covers_every_cluster_and_repeats_none():
    features = unit(*np.linspace(0, 0.1, 20), *np.linspace(2, 2.1, 3), 4)
    chosen = far_apart(features, 3)
    assert sorted(k // 20 + (k == 23) for k in chosen) == [0, 1, 2]
    assert sorted(far_apart(torch.ones(5, 2), 9)) == [0, 1, 2, 3, 4]


def test_far_apart_is_within_twice_the_best_radius():
    points = torch.from_numpy(np.random.default_rng(0).random((9, 2), dtype=np.float32))

    def radius(chosen):
        return torch.cdist(points, points[list(chosen)]).amin(1).max()

    best = min(radius((a, b)) for a in range(9) for b in range(9))
    assert radius(far_apart(points, 2)) <= 2 * best + 1e-6


def test_looks_ignore_brightness_and_contrast():
    image = torch.rand(1, 40, 30)
    assert torch.allclose(look(image), look(0.3 * image + 0.2), atol=1e-5)
    assert look(image) @ look(1 - image) == pytest.approx(-1, abs=1e-4)


def test_the_nearest_examples_are_shown_and_each_is_looked_at_once():
    seen = []

    def describe(path):
        seen.append(path)
        return unit(float(path.name))[0]

    chooser = Chooser(PAIRS, 3, "nearest", describe=describe)
    angle = {k: abs(np.angle(np.exp(1j * (k - 4.2)))) for k in range(12)}
    expected = sorted(sorted(angle, key=angle.get)[:3])
    assert [pair.name for pair in chooser(Path("4.2"))] == [f"{k:02}" for k in expected]
    chooser(Path("9"))
    assert len(seen) == 14


@pytest.mark.parametrize("how", ["random", "nearest", "diverse", "metadata"])
def test_equal_seeds_choose_alike_and_few_candidates_are_all_shown(how):
    def make(number):
        return Chooser(PAIRS, number, how, 3, lambda path: unit(float(path.name))[0])(Path("2"))

    assert make(4) == make(4)
    assert len(make(4)) == 4
    assert list(make(12)) == PAIRS


def test_metadata_compares_words_and_ratios(tmp_path):
    (tmp_path / "t.csv").write_text("case,role,modality,tesla\na,image,MR,3\na,labels,,\nb,image,CT,\nc,image,mr,1.5\n")
    table = Table(tmp_path / "t.csv")
    rows = {name: table.of(tmp_path / f"{name}.png") for name in "abc"}
    assert distance(rows["a"], rows["a"]) == 0
    assert distance(rows["a"], rows["c"]) == pytest.approx(np.log(2), rel=1e-6)
    assert distance(rows["a"], rows["c"]) < distance(rows["a"], rows["b"])
    with pytest.raises(ValueError, match="column `case`"):
        Table(write_text(tmp_path / "u.csv", "name\nx\n"))


def write_text(path, text):
    path.write_text(text)
    return path


def test_features_of_a_network_tell_images_apart_and_leave_it_as_it_was():
    network = tiny()
    describe, images = NetworkLook(network), torch.rand(2, 1, *SIZE)
    found = [describe(image) for image in images]
    assert torch.equal(found[0], describe(images[0]))
    assert found[0] @ found[1] < 1 - 1e-6
    assert not any(module._forward_hooks for module in network.modules())
    with pytest.raises(ValueError, match="prompt_places"):
        NetworkLook(Oracle())


def test_nearest_slices_are_those_that_look_like_the_query(tmp_path):
    found = predictor(Oracle(1, 1, PLANE), tasks.Denoising(), tmp_path, choice="nearest", examples=1, bins=10)
    path = write(tmp_path / "a.nii", values(5))
    found.set_context([path], [path])
    assert np.abs(found(path).image - values(5)).max() < 1e-5


# ---------------------------------------------------------------- sources


def as_picture(kind, image, folder):
    tensor = torch.from_numpy(image)
    kinds = {
        "array": lambda: image,
        "tensor": lambda: tensor[None],
        "torchio": lambda: torchio.ScalarImage(tensor=tensor.T[None, ..., None]),
        "path": lambda: npy(folder / f"{image.sum()}.npy", image),
    }
    return kinds[kind]()


def npy(path, image):
    np.save(path, image)
    return str(path)


@pytest.mark.parametrize("kind", ["array", "tensor", "torchio", "path"])
def test_pictures_of_every_kind_are_one(kind, tmp_path):
    image, labels = blob(40, 50)
    found = Predictor(Oracle(), tasks.Segmentation())
    found.set_context([as_picture(kind, image, tmp_path)], [as_picture(kind, labels, tmp_path)])
    plain = Predictor(Oracle(), tasks.Segmentation())
    plain.set_context([image], [labels])
    assert np.array_equal(found(as_picture(kind, image, tmp_path)).labels, plain(image).labels)


@pytest.mark.parametrize("task", [tasks.Segmentation(), tasks.Denoising()])
def test_subjects_hold_image_and_target(task):
    image, labels = blob(40, 50)
    flat = {"scan": torchio.ScalarImage(tensor=torch.from_numpy(image).T[None, ..., None])}
    other = torch.from_numpy(labels).T[None, ..., None]
    flat["wanted"] = torchio.LabelMap(tensor=other) if task.is_label else torchio.ScalarImage(tensor=other)
    found, plain = Predictor(Oracle(), task), Predictor(Oracle(), task)
    found.set_context([torchio.Subject(flat)])
    plain.set_context([image], [labels])
    assert np.array_equal(found(torchio.Subject(flat)).painted, plain(image).painted)
    with pytest.raises(ValueError, match="no target"):
        found.set_context([torchio.Subject(scan=flat["scan"])])


@pytest.mark.parametrize("kind", ["array", "tensor", "torchio", "path", "subject"])
def test_volumes_of_every_kind_are_one(kind, tmp_path):
    labels, affine = (values(1) > 0.5).astype(np.uint8), np.eye(4)
    found = VolumePredictor(Predictor(Top(1, 1, PLANE), tasks.Segmentation()), rule=Window(0, 1), slices="axial")

    def hold(array, kind, name):
        if kind == "path":
            return write(tmp_path / f"{name}.nii", array, affine, kind=array.dtype)
        if kind == "torchio":
            return torchio.ScalarImage(tensor=torch.from_numpy(array)[None], affine=affine)
        return torch.from_numpy(array) if kind == "tensor" else array

    if kind == "subject":
        scan, mask = torch.from_numpy(values(1))[None], torch.from_numpy(labels)[None]
        found.set_context([torchio.Subject(a=torchio.ScalarImage(tensor=scan), b=torchio.LabelMap(tensor=mask))])
        query = torchio.Subject(a=torchio.ScalarImage(tensor=torch.from_numpy(values())[None]))
    else:
        found.set_context([hold(values(1), kind, "i")], [hold(labels, kind, "t")])
        query = hold(values(), kind, "q")
    answer = found(query).labels
    assert answer.shape == SHAPE
    assert np.array_equal(answer, (values() > 0.5) & (np.arange(SHAPE[1]) >= SHAPE[1] - PLANE[0] // 2)[None, :, None])


def test_a_context_that_fails_leaves_the_old_one(tmp_path):
    image, labels = blob(40, 50)
    found = Predictor(Oracle(), tasks.Segmentation())
    found.set_context([image], [labels])
    before = found(image).labels
    for bad in ([np.zeros((40, 50, 3), np.uint8)], [labels[:9]]), ([image], [labels * 0]):
        with pytest.raises(ValueError, match=r"size|no class"):
            found.set_context(*bad)
        assert np.array_equal(found(image).labels, before)
    volumes = predictor(folder=tmp_path)
    path, axis = write(tmp_path / "a.nii", values()), volumes.axis
    expected = volumes(path).labels
    with pytest.raises(ValueError, match="no class"):
        volumes.set_context([path], [write(tmp_path / "z.nii", values() * 0, kind=np.uint8)])
    assert volumes.axis == axis
    assert np.array_equal(volumes(path).labels, expected)


# ---------------------------------------------------------------- units


def test_synthesis_answers_in_the_units_of_its_targets():
    found = Predictor(Oracle(), tasks.Synthesis())
    image, target = blob(*SIZE)[0], (np.arange(1024).reshape(SIZE) * 60).astype(np.uint16)
    found.set_context([image], [target])
    assert found(image).image.dtype == np.uint16
    assert np.array_equal(found(image).image, target)
    assert found.units.exact


def test_volumes_of_synthesis_follow_the_rules_of_both_roles(tmp_path):
    rules = {
        name: {"class_path": "mvg.data.Window", "init_args": {"low": low, "high": high}}
        for name, low, high in (("ct", -1000, 1000), ("pet", 0, 20))
    }
    task = tasks.Synthesis(["ct"], ["pet"])
    first, second = stored_rules({"a": {"intensity": rules}, "b": {"intensity": rules}}, task)
    assert (first.low, second.high) == (-1000, 20)
    found = VolumePredictor(Predictor(Oracle(1, 1, PLANE), task), rule=first, target_rule=second, examples=10)
    ct, pet = write(tmp_path / "c.nii", 900 * values()), write(tmp_path / "p.nii", 20 * values(3))
    found.set_context([ct], [pet])
    assert np.abs(found(ct).image - 20 * values(3)).max() < 1e-4


def test_units_of_percentiles_are_the_mean_of_the_targets_and_say_so():
    found = Predictor(Oracle(), tasks.Synthesis())
    images = [blob(*SIZE, seed)[0] for seed in range(2)]
    found.set_context(images, [image * np.float32(scale) for image, scale in zip(images, (1, 3), strict=True)])
    assert not found.units.exact
    assert found.units.limits[1] == pytest.approx(np.mean([255, 765]), rel=0.1)


def test_cut_and_trim_are_those_of_the_training(tmp_path):
    assert stored_cut({"a": {"slices": "coronal", "trim": True}, "b": {"slices": "coronal", "trim": True}}) == (
        "coronal",
        True,
    )
    assert stored_cut({"a": {"slices": "coronal", "trim": False}, "b": {"slices": "axial"}}) == ("auto", False)
    body = np.zeros(SHAPE, np.float32)
    body[2:7, 1:8] = 0.2 + 0.8 * values()[2:7, 1:8]
    found = predictor(Copy(1, 1, (7, 5)), tasks.Denoising(), tmp_path, trim=True)
    path = write(tmp_path / "a.nii", body)
    found.set_context([path], [path])
    assert tuple(found.predictor.passes[0].context_images.shape[-2:]) == (7, 5)
    assert np.abs(found(path).image - body).max() < 1e-5


# ---------------------------------------------------------------- memory


def test_many_classes_hold_no_more_memories_than_the_limit_and_answer_alike(tmp_path):
    volume, labels = values(), (np.arange(np.prod(SHAPE)).reshape(SHAPE, order="F") % 9).astype(np.uint8)
    answers = []
    for limit in (1 << 30, 1):
        shelf = Shelf(limit)
        found = VolumePredictor(Predictor(Oracle(1, 1, PLANE), tasks.Segmentation(), shelf=shelf), rule=Window(0, 1))
        found.set_context([volume], [labels])
        answers.append(found(volume).labels)
        assert len(shelf) == (8 if limit > 1 else 1)
    assert np.array_equal(*answers)


@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_memory_does_not_grow_with_the_number_of_classes(kind):
    peaks, volume = [], values(0, (32, 32, 24))
    for classes in (2, 40):
        labels = (np.arange(volume.size).reshape(volume.shape) // 64 % (classes + 1)).astype(np.uint8)
        if kind == "2D":
            network = Predictor(Oracle(1, 1, (32, 32)), tasks.Segmentation(), batch=4, shelf=Shelf(1))
            found = VolumePredictor(network, rule=Window(0, 1), examples=48)
        else:
            found = ScalePredictor(Told(image_size=(32, 32, 32)), tasks.Segmentation(), rule=Window(0, 1))
        tracemalloc.start()
        with LiveBytes() as live:
            found.set_context([volume], [labels])
            found(volume)
        peaks.append((tracemalloc.get_traced_memory()[1], live.peak))
        tracemalloc.stop()
    (arrays, tensors), (more_arrays, more_tensors) = peaks
    assert more_arrays < 1.2 * arrays + (1 << 20)
    assert more_tensors < 1.2 * tensors


def test_bytes_of_nested_tensors_count():
    @dataclasses.dataclass
    class Held:
        one: torch.Tensor
        more: list

    assert bytes_of(Held(torch.zeros(3), [torch.zeros(2, dtype=torch.float64), {"a": torch.zeros(1)}, 5])) == 12 + 20


def test_live_bytes_fall_when_tensors_go():
    with LiveBytes() as live:
        first = torch.zeros(1000)
        second = first.view(10, 100) + 1
        del first
        held = live.held
        del second
    assert (held, live.held, live.peak) == (4000, 0, 8000)


def test_need_grows_with_batch_and_examples_without_computing():
    few, many = need_of(tiny(), 1), need_of(tiny(), 8)
    assert many.memory > few.memory > 0
    assert few.each > 0
    room = few.memory + few.peak(5)
    assert (fit_batch(few, 16, room), fit_batch(few, 16, 10)) == (5, 0)


def test_a_pass_is_remembered_once():
    class Counting(Oracle):
        calls = 0

        def remember(self, images, targets):
            self.calls += 1
            return super().remember(images, targets)

    network = Counting()
    asked = Pass(network, Shelf(), {}, [torch.rand(1, *SIZE)], [torch.rand(1, *SIZE)], lambda target: target)
    asked.paint(torch.rand(3, 1, *SIZE))
    asked.paint(torch.rand(1, 1, *SIZE))
    assert network.calls == 1


# ---------------------------------------------------------------- uncertainty


def test_agreement_is_the_share_of_members_and_the_deviation_of_values():
    labels = np.array([[0, 1], [1, 1]])
    found = Agreement(labels, [1])
    for member in (labels, np.array([[1, 1], [1, 0]])):
        found.add(member)
    assert np.array_equal(found.map(), [[0.5, 0], [0, 0.5]])
    assert found.describe()["dice"]["1"] == pytest.approx((1 + 4 / 6) / 2)
    draws = np.random.default_rng(0).normal(size=(4, 5))
    found = Agreement(draws[0], [])
    for draw in draws[1:]:
        found.add(draw)
    assert np.allclose(found.map(), draws.std(0), atol=1e-6)


def test_members_keep_every_class_and_differ():
    shows = [{1}, {1}, {1}, {2}, {1}, {1}]
    draws = [draw_members(shows, np.random.default_rng(seed)) for seed in range(9)]
    assert all(3 in draw and len(draw) <= 4 for draw in draws)
    assert len({tuple(draw) for draw in draws}) > 3
    assert {flips_of(k, 1, 2) for k in range(3)} == {(-1,), (-2,), (-1, -2)}
    assert () not in {flips_of(k, 1, 3) for k in range(20)}


@pytest.mark.parametrize("volumes", [False, True])
def test_what_depends_on_the_side_is_uncertain_and_the_answer_is_the_same(volumes, tmp_path):
    if volumes:
        network = Left(1, 1, PLANE)
        plain, sure = (VolumePredictor(Predictor(network, tasks.Segmentation(), members=n)) for n in (0, 3))
        query, labels = values(), (values(1) > 0.5).astype(np.uint8)
    else:
        plain, sure = (Predictor(Oracle(), tasks.Segmentation(), members=n) for n in (0, 3))
        query, labels = blob(*SIZE)
    for found in (plain, sure):
        found.set_context([query], [labels])
    first, second = plain(query), sure(query)
    assert np.array_equal(first.labels, second.labels)
    assert first.uncertainty is None
    assert second.uncertainty.shape == query.shape
    assert second.agreement["members"] == 3
    if volumes:
        assert 0 < second.uncertainty.mean() < 1
    else:
        assert second.uncertainty.max() == 0  # an oracle sees the same pair from every side
        assert set(second.agreement["dice"].values()) == {1.0}


def test_networks_for_volumes_have_members_too():
    found = ScalePredictor(Told(), tasks.Segmentation(), rule=Window(0, 1), members=2)
    found.set_context([values(1)], [(values(1) > 0.5).astype(np.uint8)])
    answer = found(values())
    assert answer.uncertainty.shape == SHAPE
    assert answer.agreement["members"] == 2


# ---------------------------------------------------------------- the benchmark, and masks in training


def test_choices_are_compared_and_finished_jobs_are_kept(tmp_path):
    source = {"class_path": "mvg.data.SyntheticAnatomy"}
    write_text(tmp_path / "data.yaml", f"sources:\n  s: {source}\ntasks:\n  seg: {{class_path: tasks.Segmentation}}\n")
    weights.save(tmp_path / "w", tiny(), {"seg": tasks.Segmentation()})
    words = [
        "--weights",
        str(tmp_path / "w"),
        "--output",
        str(tmp_path / "out"),
        "--config",
        str(tmp_path / "data.yaml"),
    ]
    words += ["--queries", "1", "--candidates", "3", "--shots", "1", "2", "--split", "val", "--threads", "1"]
    context_choice.main(words)
    first = (tmp_path / "out" / "table.md").read_text()
    assert first.count("\n") == 2 + len(context_choice.CHOICES)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "jobs").iterdir()}
    context_choice.main(words)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "jobs").iterdir()} == times
    assert (tmp_path / "out" / "table.md").read_text() == first


@pytest.mark.parametrize(("names", "expected"), [({}, 1), ({"labels": {0: "air", 255: "organ"}}, 255)])
def test_masks_of_255_without_names_are_class_1_in_training_too(names, expected, tmp_path):
    for name, array in (("images", blob(40, 50)[0]), ("labels", 255 * (blob(40, 50)[1] > 0).astype(np.uint8))):
        (tmp_path / name).mkdir()
        Image.fromarray(array).save(tmp_path / name / "a.png")
    source = FolderSource(str(tmp_path), class_names=names, split={"train": 1.0}, cache=str(tmp_path / "cache"))
    (item,) = source.items("train")
    assert f"labels={expected}" in item.keys
    assert source.read(item).labels["labels"].unique().tolist() == [0, expected]
