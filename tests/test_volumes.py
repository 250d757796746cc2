"""Networks for volumes on unseen patients: what is asked, how it is answered, and jobs that go on."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from test_medverse import make
from test_next_scale import Told
from test_readers import write_nifti

from benchmarks import volumes
from benchmarks.evaluation import ABSENT, episodes, load_data
from benchmarks.questions import questions
from benchmarks.volume_evaluation import (
    WAYS,
    VolumeProtocol,
    evaluate_volumes,
    network_painter,
    read_case,
    slice_protocol,
    trivial_painter,
    true,
)
from benchmarks.volume_report import differences, labelled, report
from benchmarks.volumes import CONFIG, Comparison, main
from mvg import weights
from mvg.controls import CONTROLS, TRIVIAL
from mvg.data import FolderSource
from mvg.models import CanvasViT, PatchStem

PROTOCOL = VolumeProtocol("test", shots=(1, 2), overlap=0.0)


def class_path(path, /, **arguments):
    return {"class_path": path, "init_args": arguments}


@pytest.fixture
def data(tmp_path):
    """Configuration of ten volumes with two structures; the last test patient lacks the second."""
    rng = np.random.default_rng(0)
    for number in range(10):
        label = np.zeros((20, 18, 16))
        label[2:9, 3:9, 4:12] = 1
        if number < 9:
            label[11:18, 10:16, 4:12] = 2
        write_nifti(tmp_path / "images" / f"p{number}.nii.gz", rng.normal(100, 5, label.shape) + 50 * label)
        write_nifti(tmp_path / "labels" / f"p{number}.nii.gz", label, dtype=np.uint8)
    split = {"train": [f"p{n}" for n in range(5)], "val": ["p5", "p6"], "test": ["p7", "p8", "p9"]}
    source = class_path(
        "mvg.data.FolderSource", root=str(tmp_path), name="toy", slices=None, split=split, cache=str(tmp_path / "cache")
    )
    return {
        "sources": {"toy": source},
        "tasks": {
            "segmentation": class_path("tasks.Segmentation"),
            "denoising": class_path("tasks.Denoising", mim=0.0),
        },
        "next_scale": class_path("mvg.next_scale.TeacherForcing", first=0.5),
        "context_from_train": True,
        "batch_size": 1,
    }


@pytest.fixture
def dataset(data):
    return episodes(load_data(data, Told((16, 16, 16))), slice_protocol(PROTOCOL))


def frame_of(dataset, painter, task="segmentation", **options):
    return pd.DataFrame(evaluate_volumes(dataset, "toy", task, painter, PROTOCOL, **options))


def copying(dataset, **options):
    return frame_of(dataset, network_painter(Told((16, 16, 16)), WAYS, 0.0, autocast=False), **options)


def test_all_ways_answer_whole_volumes_after_every_number_of_examples(dataset):
    frame = copying(dataset)
    scored = frame[frame["metric"] == "dice"]
    assert set(map(tuple, scored[["entrant", "shot"]].to_numpy())) == {(way, n) for way in WAYS for n in (1, 2)}
    assert set(scored["case"]) == {"p7", "p8", "p9"}
    fine = scored[scored["entrant"] != "squeezed"]
    assert fine["value"].min() > 0.95  # all patients are alike, so that copying is right
    assert set(frame[frame["metric"] == ABSENT]["case"]) == {"p9"}


def test_who_follows_the_examples_collapses_under_the_task_swap(dataset):
    frame = copying(dataset, control=True)
    means = frame[frame["metric"] == "dice"].groupby("entrant")["value"].mean()
    assert means[CONTROLS[1]] == 0
    assert means[CONTROLS[2]] > 0.95


def test_examples_are_of_training_patients_and_fewer_are_the_first_of_more(dataset):
    question = questions(dataset, "toy", "denoising")[0]
    item = dataset.sources["toy"].items("test")[0]
    case, again = (read_case(dataset, question, item, PROTOCOL) for _ in range(2))
    assert {subject.item.case for subject in case.subjects[1:]} <= {f"p{n}" for n in range(5)}
    assert torch.equal(case.query.image, again.query.image)
    painted = {(way, shots): paint for way, shots, paint in trivial_painter(case, case.context, [1, 2], False)}
    assert torch.equal(painted[TRIVIAL[0], 2], case.query.image)
    assert torch.equal(painted[TRIVIAL[2], 1], true(case.context[0]))
    assert torch.allclose(painted[TRIVIAL[2], 2], torch.stack([true(pair) for pair in case.context]).mean(0))


def test_answers_after_several_numbers_of_examples_are_those_of_each_number_alone(dataset):
    question = questions(dataset, "toy", "denoising")[0]
    case = read_case(dataset, question, dataset.sources["toy"].items("test")[0], PROTOCOL)
    paint = network_painter(make(size=(16, 16, 16)), WAYS, 0.25, autocast=False)
    together = {(way, shots): painted for way, shots, painted in paint(case, case.context, [1, 2], False)}
    for shots in (1, 2):
        for way, _, painted in paint(case, case.context[:shots], [shots], False):
            torch.testing.assert_close(together[way, shots], painted, rtol=1e-5, atol=1e-5)
    assert [way for way, _, _ in paint(case, case.context, [1], True)] == [WAYS[0]]


def test_more_examples_than_patients_are_left_out(dataset):
    protocol = VolumeProtocol("test", shots=(1, 4, 8))
    frame = pd.DataFrame(evaluate_volumes(dataset, "toy", "segmentation", trivial_painter, protocol))
    assert set(frame[frame["metric"] == "dice"]["shot"]) == {1, 4}


@pytest.mark.parametrize("wrong", [{"split": "train"}, {"shots": (2, 1)}, {"shots": ()}])
def test_protocols_that_cannot_be_asked_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        VolumeProtocol(**wrong)


def test_differences_are_paired_by_patient():
    rows = [
        {"source": "s", "task": "t", "variant": "", "case": f"c{p}", "patient": p, "metric": "dice", "shot": 1}
        | {"arm": arm, "entrant": "sliding", "value": p / 10 + gap}
        for p in range(6)
        for arm, gap in (("a", 0.0), ("b", 0.1))
    ]
    assert "0.100 [0.100, 0.100]" in differences(labelled(rows), "a, sliding", ["b, sliding"])
    assert "## 1 example" in report(rows, {"a": ["sliding"], "b": ["sliding"]})


# ---------------------------------------------------------------------- the command


@pytest.fixture
def arms(data, tmp_path):
    network = class_path("mvg.models.Medverse", image_size=[16] * 3, widths=[4, 8], grouping="block", blocks=2, code=6)
    stem = class_path("mvg.models.PatchStem", patch=8)
    canvas = class_path("mvg.models.CanvasViT", width=32, depth=1, heads=2, stem=stem)
    single = {"data": {"next_scale": {"init_args": {"single": True}}}, "evaluation": {"ways": ["sliding"]}}
    config = {"network": "network.yaml", "data": "data.yaml", "arms": {"block": {}, "no coarse": single}}
    config["arms"]["canvas"] = {"network": canvas, "evaluation": {"ways": ["next-scale"]}}
    for name, values in {"network": network, "data": data, "arms": config}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "arms.yaml"


def test_jobs_are_done_once_and_a_run_that_ended_goes_on(arms, tmp_path, capsys, monkeypatch):
    output = tmp_path / "out"
    output.mkdir()
    ratios = {"block": 1.0, "no coarse": 1.0, "canvas": 1.0}
    (output / "costs.json").write_text(json.dumps({"seconds": 0.1, "ratios": ratios}))
    words = ["--config", str(arms), "--minutes", "0.005", "--unet-minutes", "0.001", "--output", str(output)]
    words += ["--threads", "1", "--shots", "1", "2", "--cases", "1"]
    main(words)
    text = capsys.readouterr().out
    for name in ("block, next-scale", "no coarse, sliding", "canvas, next-scale", "U-Net", "mean of targets"):
        assert name in text
    assert (output / "val.png").is_file()
    assert json.loads((output / "no-coarse" / "seed-0" / "arm.json").read_text())["steps"] >= 1
    (output / "block" / "seed-0" / "val" / "toy-denoising.csv").unlink()
    monkeypatch.setattr(Comparison, "train", None)
    monkeypatch.setattr(volumes, "train_unet", None)
    main(words)
    assert capsys.readouterr().out == text
    with pytest.raises(ValueError, match="asked is"):
        main([*words[:-1], "2"])


def test_a_network_that_is_trained_already_is_asked_alone_and_never_mixed_with_another(arms, tmp_path, capsys):
    folders = []
    for seed in range(2):
        torch.manual_seed(seed)
        network = CanvasViT([16] * 3, width=32, depth=1, heads=2, stem=PatchStem(8))
        folders.append(str(weights.save(tmp_path / f"net{seed}", network)))
    words = ["--config", str(arms), "--output", str(tmp_path / "out"), "--threads", "1", "--shots", "1", "--cases", "1"]
    with pytest.raises(ValueError, match="no source 'other'; there are toy"):
        main([*words, "--arms", "--weights", folders[0], "--sources", "other"])
    main([*words, "--arms", "--weights", folders[0], "--sources", "toy"])
    text = capsys.readouterr().out
    assert all(f"weights, {way}" in text for way in WAYS)
    assert "block" not in text
    with pytest.raises(ValueError, match="give another --output"):
        main([*words, "--arms", "--weights", folders[1]])


def test_shipped_arms_build_and_differ_where_they_say_so():
    shipped = Comparison(CONFIG, minutes=1)
    networks = {arm: shipped.build(arm) for arm in shipped.arms}
    assert len({tuple(network.image_size) for network in networks.values()}) == 1
    assert len({shipped.digest(arm) for arm in shipped.arms}) == len(shipped.arms)
    assert shipped.ways("no coarse") == ["sliding"]


def test_volumes_are_reduced_to_a_spacing_with_their_labels(tmp_path):
    label = np.zeros((20, 20, 8))
    label[4:12, 4:12, 2:6] = 1
    write_nifti(tmp_path / "images" / "a.nii.gz", 10 + 90 * label, affine=np.diag([1.0, 1.0, 3.0, 1.0]))
    write_nifti(tmp_path / "labels" / "a.nii.gz", label, affine=np.diag([1.0, 1.0, 3.0, 1.0]), dtype=np.uint8)
    options = {"slices": None, "split": {"train": 1.0}, "cache": str(tmp_path / "cache"), "spacing": 2.0}
    source = FolderSource(str(tmp_path), **options)
    subject = source.read(source.items("train")[0])
    assert subject.shape == (10, 10, 8)
    assert subject.spacing == (2.0, 2.0, 3.0)
    assert subject.labels["labels"].sum() == label.sum() / 4
    with pytest.raises(ValueError, match="slices"):
        FolderSource(str(tmp_path), spacing=2.0)
