"""The ablation: arms that differ where they say so, trained once, test patients left alone."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from benchmarks import ablation
from benchmarks.ablation import CONFIG, Ablation, main
from benchmarks.step_cost import Costs

SHIPPED = Ablation(Path(__file__).parent.parent / CONFIG, minutes=1)


@pytest.fixture
def arms(tmp_path):
    """Writes a configuration over pictures of 20 patients, and returns its path."""
    rng = np.random.default_rng(0)
    for role in ("images", "labels"):
        (tmp_path / "data" / role).mkdir(parents=True)
    for case in range(20):
        labels = np.zeros((16, 16), dtype=np.uint8)
        labels[4:12, case % 8 : case % 8 + 6] = 1
        image = (labels * 120 + rng.integers(0, 60, labels.shape)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "data" / "images" / f"case{case:02d}.png")
        Image.fromarray(labels).save(tmp_path / "data" / "labels" / f"case{case:02d}.png")
    source = {
        "class_path": "mvg.data.FolderSource",
        "init_args": {
            "name": "squares",
            "root": str(tmp_path / "data"),
            "roles": {"image": "images", "labels": "labels"},
            "cache": str(tmp_path / "cache"),
        },
    }
    tasks = {"segmentation": {"class_path": "tasks.Segmentation"}, "denoising": {"class_path": "tasks.Denoising"}}
    network = {
        "class_path": "mvg.models.CanvasViT",
        "init_args": {
            "image_size": [16, 16],
            "width": 32,
            "depth": 1,
            "heads": 2,
            "stem": {"class_path": "mvg.models.PatchStem", "init_args": {"patch": 8}},
        },
    }
    config = {
        "network": "network.yaml",
        "data": "data.yaml",
        "arms": {"ours": {}, "masked": {"tasks": {"all": {"mim": 1.0}}}},
    }
    content = {"data": {"sources": {"squares": source}, "tasks": tasks, "batch_size": 2}, "network": network}
    for name, values in {**content, "arms": config}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "arms.yaml"


def run(arms, *words):
    main(["--config", str(arms), "--minutes", "0.002", "--threads", "1", "--output", str(arms.parent / "out"), *words])


def test_arms_are_trained_once_and_scored_on_validation_patients(arms, capsys, monkeypatch):
    run(arms)
    table = capsys.readouterr().out
    assert "| ours |" in table
    assert "squares/segmentation" in table
    assert (arms.parent / "out" / "val.md").read_text() == table
    folder = arms.parent / "out" / "masked" / "seed-0"
    assert json.loads((folder / "arm.json").read_text())["steps"] >= 1
    assert not list((arms.parent / "out").rglob("test.csv"))
    monkeypatch.setattr(Ablation, "train", None)
    run(arms)
    assert capsys.readouterr().out == table


def test_arm_of_other_settings_is_not_mixed_in(arms):
    run(arms, "--arms", "ours")
    with pytest.raises(ValueError, match="other settings"):
        main(["--config", str(arms), "--minutes", "0.003", "--output", str(arms.parent / "out"), "--arms", "ours"])


def test_test_patients_are_scored_once_after_training(arms, monkeypatch):
    with pytest.raises(ValueError, match="without --final first"):
        run(arms, "--arms", "ours", "--final")
    run(arms, "--arms", "ours")
    run(arms, "--arms", "ours", "--final")
    records = ablation.read_records(arms.parent / "out" / "ours" / "seed-0" / "test.csv")
    assert {record["split"] for record in records} == {"test"}
    monkeypatch.setattr(Ablation, "score", None)
    run(arms, "--arms", "ours", "--final")


@pytest.mark.parametrize("words", [["--final"], ["--arms", "nothing"]])
def test_wrong_words_end_with_a_message(arms, words):
    with pytest.raises(SystemExit):
        run(arms, *words)


@pytest.mark.parametrize("arm", SHIPPED.arms)
def test_every_shipped_arm_builds_and_differs_from_the_base(arm):
    network = SHIPPED.build(arm)
    assert tuple(network.image_size) == (64, 64)
    assert (SHIPPED.digest(arm) == SHIPPED.digest("ours")) == (arm == "ours")


def test_changes_reach_the_tasks_that_they_name():
    tasks = SHIPPED.data_of("random-colour")["tasks"]
    assert tasks["segmentation"]["init_args"]["scheme"] == "random"
    assert "scheme" not in tasks["denoising"].get("init_args", {})
    assert {task["init_args"]["mim"] for task in SHIPPED.data_of("mim-only")["tasks"].values()} == {1.0}
    assert SHIPPED.network_of("unet-plain")["init_args"]["decoder"]["init_args"]["skips"] == "plain"


def test_names_that_are_left_out_are_in_no_part():
    data = SHIPPED.data_of("ours")
    assert "tumour" not in data["tasks"]
    assert not {"sarcoma", "tumour"} & {*data["sources"], *data["weights"]}


def test_equal_compute_gives_the_dearer_arm_fewer_steps(tmp_path):
    costs = Costs(tmp_path / "costs.json")
    reference, twice = (partial(torch.mm, x, x) for x in (torch.rand(300, 300), torch.rand(1200, 1200)))
    costs.measure(reference, {"same": lambda: reference, "dear": lambda: twice})
    assert costs.ratios["dear"] > 4 * costs.ratios["same"]
    assert costs.steps("dear", 1) < costs.steps("same", 1) / 4
    again = Costs(tmp_path / "costs.json")
    again.measure(reference, {"same": lambda: twice})
    assert (again.ratios, again.seconds) == (costs.ratios, costs.seconds)


def test_arm_that_changes_what_is_not_there_is_refused(arms):
    config = yaml.safe_load(arms.read_text())
    config["arms"] = {"odd": {"tasks": {"nothing": {}}}}
    arms.write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="changes the tasks"):
        Ablation(arms, 1).data_of("odd")
    config["arms"] = {"odd": {"colour": {}}}
    arms.write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="an arm can change"):
        Ablation(arms, 1)
