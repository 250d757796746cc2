import csv
import os
import signal
import subprocess
import sys
import types
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
import yaml
from pytorch_lightning import Callback
from torch.utils.data import DataLoader

from mvg import cli, doctor, run_folder
from mvg.cli import lightning, main
from mvg.data.choice import check_context_size
from mvg.weights import build

ROOT = Path(__file__).parents[1]
TINY = """
trainer:
  {max_epochs: 1, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false, log_every_n_steps: 1}
model:
  network:
    class_path: mvg.models.CanvasViT
    init_args: {image_size: [32, 32], width: 16, depth: 1, heads: 1}
data:
  sources: {anatomy: {class_path: mvg.data.synthetic.SyntheticAnatomy, init_args: {image_size: [32, 32]}}}
  tasks: {segmentation: {class_path: tasks.Segmentation}}
  batch_size: 2
  epoch_length: 8
  val_length: 2
  test_length: 2
"""
FIT = ["fit", "--config", "tiny.yaml"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    return tmp_path


def error_of(args, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert "Traceback" not in "".join(said)
    return said[-1]


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


class Terminate(Callback):
    """Sends SIGTERM to its own process after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


class TestRun:
    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("run")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            Path("tiny.yaml").write_text(TINY)
            main([*FIT, "--report"])
        return folder / "runs" / "tiny"

    def test_fit_leaves_a_complete_folder(self, run):
        names = {"config.yaml", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "weights/config.json"}
        assert all((run / name).is_file() for name in names)
        assert list((run / "tensorboard").glob("events*"))
        assert not list(run.glob("version_*"))

    def test_checkpoint_and_weights_name_nothing_of_this_machine(self, run):
        home, host = str(Path.home()).encode(), os.uname().nodename.encode()
        for path in [*run.glob("checkpoints/*"), *run.glob("weights/*")]:
            content = path.read_bytes()
            assert not any(text in content for text in (str(run).encode(), str(ROOT).encode()))
            assert len(home) < 6 or home not in content
            assert len(host) < 6 or host not in content

    def test_saved_configuration_gives_the_same_run_in_a_new_folder(self, run, monkeypatch):
        monkeypatch.chdir(run.parents[1])
        main(["fit", "--config", str(run / "config.yaml")])
        first, again = (weights(run.parent / name / "checkpoints/last.ckpt") for name in ("tiny", "tiny-2"))
        assert all(torch.equal(first[name], again[name]) for name in first)

    def test_test_writes_no_second_run(self, run, monkeypatch, here):
        main(["test", "--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints/best.ckpt")])
        assert not Path("runs").exists()

    def test_validate_takes_the_best_weights_of_the_newest_run(self, run, monkeypatch, capsys):
        monkeypatch.chdir(run.parents[1])
        main(["validate", "--config", "tiny.yaml"])
        assert "val/score" in capsys.readouterr().out

    def test_occupied_folder_is_refused(self, run, capsys):
        assert "--resume" in error_of([*FIT, "--trainer.default_root_dir", str(run)], capsys)

    def test_checkpoint_of_a_moved_run_names_its_new_folder(self, run, tmp_path):
        moved = tmp_path / "last.ckpt"
        moved.write_bytes((run / "checkpoints/last.ckpt").read_bytes())
        state = run_folder.CompleteCheckpointIO().load_checkpoint(moved)["callbacks"]
        assert {Path(entry["dirpath"]) for entry in state.values() if "dirpath" in entry} == {tmp_path}


def test_terminated_run_resumes_to_the_same_weights():
    stop = ["--trainer.callbacks+=test_cli.Terminate", "--trainer.callbacks.step=2", "--allow-class-path", "test_cli"]
    main([*FIT, "--name", "whole"])
    with pytest.raises(SystemExit) as stopped:
        main([*FIT, "--name", "cut", *stop])
    assert stopped.value.code == 143
    main([*FIT, "--name", "cut", "--resume"])
    whole, cut = (weights(f"runs/{name}/checkpoints/last.ckpt") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    rows = csv.DictReader(Path("runs/cut/metrics.csv").read_text().splitlines())
    steps = [int(row["step"]) for row in rows if row["train/loss"]]
    assert steps == [0, 1, 2, 3]


def test_report_that_cannot_be_made_is_refused_before_training(capsys):
    assert "`test_length` 0" in error_of([*FIT, "--report", "--data.test_length=0"], capsys)
    assert not list(Path().glob("runs/*/checkpoints/*"))


def test_nothing_trained_is_not_evaluated(capsys):
    assert "nothing trained" in error_of(["test", "--config", "tiny.yaml"], capsys)


def test_resume_without_a_run_starts_one():
    main([*FIT, "--resume", "--trainer.max_steps=1"])
    assert Path("runs/tiny/checkpoints/last.ckpt").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--model.network.image_size=[33,32]", "33"),
        ("--model.network.widht=8", "widht"),
        ("--model.network=mvg.models.NoSuchNetwork", "NoSuchNetwork"),
        ("--data.tasks.segmentation=tasks.NoSuchTask", "NoSuchTask"),
        ("--data.image_size=[16,16]", "model.network.init_args.image_size"),
        ("--data.batch_size=many", "batch_size"),
        ("--data.context_size=0", "0"),
        ("--model.optimizer={class_path: torch.optim.AdamW, init_args: {lr: -1}}", "-1"),
        ("--trainr.max_epochs=2", "trainr"),
        ("--config=nothing.yaml", "nothing.yaml"),
        ("--ckpt_path=nothing.ckpt", "nothing.ckpt"),
        ("--trainer.accelerator=abacus", "abacus"),
    ],
)
def test_mistake_is_one_sentence_before_any_step(option, said, capsys):
    assert said in error_of([*FIT, option], capsys)
    assert not list(Path().glob("runs/*/checkpoints/*"))


@pytest.mark.parametrize(
    "target", ["os.system", "subprocess.Popen", "builtins.eval", "torch.hub.load", "monai.bundle.run"]
)
@pytest.mark.parametrize("option", ["model.network", "model.optimizer", "trainer.callbacks", "data.tasks.segmentation"])
def test_class_path_outside_of_known_packages_is_refused(option, target, capsys):
    value = {"class_path": target, "init_args": {"command": "touch harmed"}}
    for part in reversed(option.split(".")):
        value = {part: value}
    Path("evil.yaml").write_text(yaml.safe_dump(value))
    assert "--allow-class-path" in error_of([*FIT, "--config", "evil.yaml"], capsys)
    assert "--allow-class-path" in error_of([*FIT, f"--{option}={target}"], capsys)
    assert not Path("harmed").exists()


def test_module_is_not_imported_before_it_is_allowed(capsys, monkeypatch):
    Path("stranger.py").write_text("open('harmed', 'w')\nfrom tasks import Segmentation as Mine")
    monkeypatch.syspath_prepend(".")
    choose = [*FIT, "--data.tasks.segmentation=stranger.Mine", "--print_config"]
    assert "--allow-class-path stranger" in error_of(choose, capsys)
    assert not Path("harmed").exists()
    with pytest.raises(SystemExit) as stopped:
        main([*choose, "--allow-class-path", "stranger"])
    assert stopped.value.code == 0
    assert Path("harmed").exists()
    Path("harmed").unlink()
    assert "--allow-class-path stranger" in error_of(choose, capsys)


def test_mistake_that_a_worker_finds_is_one_sentence(monkeypatch, capsys):
    loader = DataLoader([0], num_workers=1, collate_fn=lambda _: check_context_size(0))
    monkeypatch.setattr(cli, "run", lambda *_: next(iter(loader)))
    assert error_of(["fit"], capsys) == "mvg fit: `context_size` must be at least 1, or two ascending numbers, got 0"


def test_bug_in_a_worker_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "run", lambda *_: next(iter(DataLoader([0], num_workers=1, collate_fn=int))))
    with pytest.raises(TypeError, match="Original Traceback"):
        main(["fit"])


def test_traceback_is_shown_when_asked_for():
    with pytest.raises(ValueError, match="33"):
        main([*FIT, "--model.network.image_size=[33,32]", "--traceback"])


def interrupted(*_):
    raise KeyboardInterrupt


def interrupted_in_lightning(*_):
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


def failed(*_):
    sys.exit(1)


@pytest.mark.parametrize(("work", "status"), [(interrupted, 130), (interrupted_in_lightning, 130), (failed, 1)])
def test_an_interrupted_command_says_so_by_its_status(work, status, monkeypatch):
    monkeypatch.setattr(cli, "run", work)
    with pytest.raises(SystemExit) as stopped:
        main(["adapt"])
    assert stopped.value.code == status


def test_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "run", lambda *_: [][0])
    with pytest.raises(IndexError):
        main(["fit"])


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.yaml")), ids=lambda path: path.name)
def test_shipped_configuration_parses(path, capsys, monkeypatch):
    monkeypatch.setenv("MVG_DATA", "data")
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(path), "--print_config"])
    assert stopped.value.code == 0
    parsed = yaml.safe_load(capsys.readouterr().out)
    assert parsed["model"]["network"]["class_path"]
    assert path.name == "adapt.yaml" or parsed["data"]["sources"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/network/*.yaml")), ids=lambda path: path.name)
@pytest.mark.parametrize("base", ["quickstart", "real_2d"])
def test_network_on_the_command_line_keeps_nothing_of_the_configuration_s_own(path, base, capsys, monkeypatch):
    monkeypatch.setenv("MVG_DATA", "data")
    networks = []
    for words in ([f"--data={ROOT}/configs/data/real.yaml"], [f"--config={ROOT}/configs/{base}.yaml"]):
        with pytest.raises(SystemExit):
            main(["fit", *words, f"--model.network={path}", "--print_config"])
        networks.append(yaml.safe_load(capsys.readouterr().out)["model"]["network"])
    assert networks[0] == networks[1]


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/data/*.yaml")), ids=lambda path: path.name)
def test_shipped_data_parses(path, capsys, monkeypatch):
    monkeypatch.setenv("MVG_DATA", "data")
    option = "data" if "tasks" in yaml.safe_load(path.read_text()) else "data.sources"
    with pytest.raises(SystemExit) as stopped:
        main([*FIT, f"--{option}={path}", "--print_config"])
    assert stopped.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["sources"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/network/*.yaml")), ids=lambda path: path.name)
def test_shipped_network_can_be_built(path, capsys):
    with torch.device("meta"):
        network = build(path)
    assert network.image_size == tuple(yaml.safe_load(path.read_text())["init_args"]["image_size"])
    with pytest.raises(SystemExit) as stopped:
        main([*FIT, f"--model.network={path}", "--print_config"])
    assert stopped.value.code == 0


def test_help_lists_every_command_without_importing_torch():
    code = "import sys; from mvg.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"  {name} " in shown for name in ["fit", "validate", "test", *cli.commands()])


def test_every_command_says_what_it_does():
    assert all(cli.summary(entry).endswith(".") for entry in cli.commands().values())


def test_unknown_command_lists_the_known(capsys):
    assert "fit, validate, test" in error_of(["nothing"], capsys)


def offer(monkeypatch, component):
    entry = types.SimpleNamespace(load=lambda: component)
    monkeypatch.setattr(cli, "commands", lambda: {"extra": entry})


def test_function_becomes_a_command(monkeypatch, capsys):
    seen = []

    def extra(number: int, word: str = "a") -> None:
        seen.append((number, word))

    offer(monkeypatch, extra)
    main(["extra", "--number", "3"])
    assert seen == [(3, "a")]
    assert "number" in error_of(["extra"], capsys)


def test_dictionary_becomes_nested_commands(monkeypatch):
    seen = []

    def one(number: int = 1) -> None:
        seen.append(number)

    offer(monkeypatch, {"one": one, "two": lambda: None})
    main(["extra", "one", "--number=2"])
    assert seen == [2]


def test_function_of_args_parses_for_itself(monkeypatch):
    seen = []
    offer(monkeypatch, lambda args: seen.extend(args))
    main(["extra", "--anything", "x"])
    assert seen == ["--anything", "x"]


def test_module_runs():
    done = subprocess.run([sys.executable, "-m", "mvg", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("mvg ")


@pytest.mark.parametrize("word", ["fit", "validate", "test", "predict"])
def test_lightning_runs_our_commands(word, monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "run", lambda *words: seen.append(words))
    lightning([word, "--x"])
    assert seen == [(word, ["--x"])]


def test_lightning_hands_other_words_over(monkeypatch):
    seen = []
    script = types.SimpleNamespace(load=lambda: lambda: seen.append(sys.argv))
    points = types.SimpleNamespace(select=lambda **_: [script])
    monkeypatch.setattr(cli, "distribution", lambda name: types.SimpleNamespace(entry_points=points))
    monkeypatch.setattr(sys, "argv", sys.argv)
    lightning(["login", "--x"])
    assert seen == [["lightning", "login", "--x"]]


def test_lightning_without_the_platform_says_so(monkeypatch, capsys):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(cli, "distribution", missing)
    with pytest.raises(SystemExit):
        lightning(["login"])
    assert "lightning-sdk, which is not installed" in capsys.readouterr().err


class TestCheckpointIO:
    io = run_folder.CompleteCheckpointIO()

    def test_round_trip(self, tmp_path):
        path = tmp_path / "a.ckpt"
        state = {"weights": torch.arange(3), "paths": {str(tmp_path / "b"): [str(tmp_path), 1.5, None]}}
        self.io.save_checkpoint(state, path)
        assert str(tmp_path).encode() not in path.read_bytes()
        loaded = self.io.load_checkpoint(path)
        assert loaded["paths"] == state["paths"]
        assert torch.equal(loaded["weights"], state["weights"])

    @pytest.mark.parametrize("error", [PermissionError(13, "denied"), OSError(28, "full")])
    def test_failure_is_loud_and_keeps_the_previous_one(self, tmp_path, monkeypatch, error):
        path = tmp_path / "a.ckpt"
        self.io.save_checkpoint({"step": 1}, path)

        def fail(state, file):
            file.write(b"half")
            raise error

        monkeypatch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="could not be written"):
            self.io.save_checkpoint({"step": 2}, path)
        assert self.io.load_checkpoint(path) == {"step": 1}
        assert [entry.name for entry in tmp_path.iterdir() if "ckpt" in entry.name] == ["a.ckpt"]

    def test_pickled_code_is_not_run(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return os.system, (f"touch {tmp_path}/harmed",)

        torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
        with pytest.raises(Exception, match="weights_only"):
            self.io.load_checkpoint(tmp_path / "evil.ckpt")
        assert not (tmp_path / "harmed").exists()


class TestDoctor:
    def test_this_installation_is_sound(self, capsys, monkeypatch):
        monkeypatch.delenv("MVG_DATA", raising=False)
        main(["doctor"])
        assert capsys.readouterr().out.splitlines()[-1] == "no problems found"

    def test_stray_package_is_named(self, tmp_path, monkeypatch):
        (tmp_path / "tasks").mkdir()
        (tmp_path / "tasks/__init__.py").touch()
        monkeypatch.delitem(sys.modules, "tasks", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        broken = [finding for finding in doctor.check_rooms() if finding.broken]
        assert [str(tmp_path) in finding.text for finding in broken] == [True]

    def test_version_out_of_bounds_is_broken(self):
        from packaging.requirements import Requirement

        assert doctor.check_version(Requirement("torch<1")).broken
        assert doctor.check_version(Requirement("no-such-distribution>=1")).broken
        assert not doctor.check_version(Requirement("torch>=1")).broken

    def test_foreign_lightning_on_the_path_is_named(self, tmp_path, monkeypatch):
        (tmp_path / "lightning").write_text("#!/bin/sh\n")
        (tmp_path / "lightning").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        notes = " ".join(finding.text for finding in doctor.check_commands())
        assert f"`lightning` on the PATH is another program: {tmp_path}" in notes

    def test_wrong_data_folder_is_broken(self, tmp_path):
        assert doctor.check_data(str(tmp_path / "nothing")).broken
        assert not doctor.check_data(str(tmp_path)).broken


@pytest.mark.parametrize(("flags", "native"), [("sse2 avx512_bf16", True), ("fp asimd bf16", True), ("avx512f", False)])
def test_processors_that_multiply_bfloat16_are_known_by_their_flags(tmp_path, flags, native):
    (tmp_path / "cpuinfo").write_text(f"flags\t: {flags}\n")
    assert doctor.multiplies_bf16(tmp_path / "cpuinfo") is native
    assert not doctor.multiplies_bf16(tmp_path / "absent")
