"""The command for whole comparisons: what it would run, and that nothing is done twice."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_data import folder_of_volumes, source_of

from benchmarks import contest
from benchmarks.contest import OURS, RESTORED, UNETS, WINDOWS, Contest, contestants, names
from benchmarks.entrants import CONTROLS, TRIVIAL
from benchmarks.specialists import UNetSpecialists
from benchmarks.suite import Question, load_suite
from benchmarks.unet import Specialist, Specialty
from mvg.cli import main
from mvg.data import EpisodeDataModule
from tasks import Denoising

ROOT = Path(__file__).parents[1]


@pytest.fixture
def entered(tmp_path, monkeypatch):
    """A contest whose commands are noted instead of run."""
    monkeypatch.chdir(ROOT)
    made = Contest(tmp_path, 0.5, Path("configs/suites/open_small.yaml"), ["--draws", "2"], "bf16", 1)
    made.costs.seconds, made.costs.ratios = 0.1, {OURS: 1.0, "painter": 1.5, "universeg": 2.0, "medverse": 8.0}
    commands = []
    monkeypatch.setattr(contest, "_mvg", lambda words: commands.append([str(word) for word in words]))
    return made, commands


@pytest.mark.parametrize("name", ["lvm", "ours-denoising"])
def test_entrants_are_configurations_that_can_be_read(name, entered, capsys, monkeypatch):
    monkeypatch.setenv("MVG_DATA", "data")
    entered[0].fit = ["--data.tasks.inpainting.init_args.soft=0"]
    with pytest.raises(SystemExit):
        main(["fit", *entered[0].options(name), "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["data"]["tasks"]["inpainting"]["init_args"]["soft"] == 0
    base = yaml.safe_load((ROOT / "configs/data/real.yaml").read_text())
    assert set(config["data"]["sources"]) == set(base["sources"])
    for part, weight in contestants()[name].weights.items():
        assert config["data"]["weights"][part] == weight
    assert config["data"]["weights"]["nerve"] == base["weights"]["nerve"]


def test_specialists_learn_few_kinds_and_are_asked_them_alone():
    found = contestants()
    for group, kinds in contest.GROUPS.items():
        entry, own = found[f"{OURS}-{group}"], {name for kind in kinds for name in contest.KINDS[kind]}
        assert entry.tasks == kinds
        others = {name for names in contest.KINDS.values() for name in names} - own
        assert set(entry.weights) == others | set(contest.LACKING.get(group, ()))
    assert set(names()) == {*TRIVIAL, *found, UNETS, WINDOWS}


def test_equal_compute_becomes_steps_and_is_trained_once(entered):
    made, commands = entered
    for _ in range(2):
        made.enter("painter")
    trained = [words for words in commands if words[0] == "fit"]
    assert len(trained) == 1
    assert "--trainer.max_steps=200" in trained[0]
    assert "--resume" in trained[0]
    assert json.loads((made.output / "painter/trained.json").read_text())["steps"] == 200
    made.minutes = 1.0
    with pytest.raises(ValueError, match=r"0\.5 minutes"):
        made.enter("painter")


def test_ours_is_asked_with_its_controls_and_all_are_quick_where_asked(entered):
    made, commands = entered
    made.enter(OURS)
    made.enter("universeg")
    asked = [words for words in commands if words[0] == "benchmark"]
    assert all(words[words.index("--draws") + 1] == "2" for words in asked)
    assert [words[words.index("--entrant") + 1] for words in asked if "--entrant" in words] == list(CONTROLS)
    assert json.loads(asked[-1][asked[-1].index("--tasks") + 1]) == ["segmentation"]
    assert len({words[words.index("--output") + 1] for words in asked}) == len(asked) == 4


def test_all_answer_whole_and_ours_restores_in_windows_too(entered):
    made, commands = entered
    for name in (OURS, "painter", WINDOWS):
        made.enter(name)
    asked = [words for words in commands if words[0] == "benchmark"]
    assert [words[words.index("--scales") + 1] for words in asked] == ["whole"] * 4 + ["coarse-to-fine"]
    assert json.loads(asked[-1][asked[-1].index("--tasks") + 1]) == list(RESTORED)
    known = {question.task for question in load_suite("configs/suites/open_small.yaml").questions()}
    assert known >= set(RESTORED)


def test_networks_for_volumes_train_on_volumes_and_answer_coarse_to_fine(entered):
    made, commands = entered
    made.enter("medverse")
    trained, asked = commands
    assert "configs/real_3d.yaml" in trained
    assert "--trainer.max_steps=150" in trained  # four batches in a step that is timed
    assert asked[asked.index("--scales") + 1] == "coarse-to-fine"
    assert json.loads(asked[asked.index("--datasets") + 1]) == list(contest.VOLUME_SETS)


def test_u_nets_are_kept_and_answer_as_when_they_were_trained(tmp_path):
    source = source_of(folder_of_volumes(tmp_path / "data", cases=6), split={"train": 0.5, "test": 0.5})
    data = EpisodeDataModule([16, 16], {"toy": source}, {"task": Denoising()}, batch_size=2, workers=0)
    UNetSpecialists.train(tmp_path / "nets", data, 0.01, workers=0)
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "nets").iterdir())
    UNetSpecialists.train(tmp_path / "nets", data, 0.01, workers=0)
    assert before == sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "nets").iterdir())
    image = np.random.default_rng(0).random((16, 16), np.float32)
    np.save(tmp_path / "image.npy", image)
    entrant = UNetSpecialists(tmp_path / "nets")
    entrant.ask(Question("toy", "denoising", "", None, "", Denoising()), 2, 1, 0)
    answer = entrant(tmp_path / "image.npy")
    assert answer.shape == image.shape
    assert entrant.trained_on == {"toy": {}}
    network = Specialist(Specialty("toy", "task", Denoising(), 0)).eval()
    network.load_state_dict(load_file(tmp_path / "nets/0.safetensors"))
    with torch.inference_mode():
        direct = network(torch.from_numpy(image)[None, None])[0, 0].clamp(0, 1).numpy()
    assert np.abs(answer - direct).max() < 0.05
