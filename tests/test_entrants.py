import csv
from pathlib import Path

import pytest
import yaml

from benchmarks.contest import contestants
from mvg.cli import main

ROOT = Path(__file__).parents[1]
RECIPES = sorted(ROOT.glob("configs/entrants/*.yaml"))
SMALL = {
    "CanvasViT": ["--model.network.init_args.width=32", "--model.network.init_args.depth=2"],
    "UniverSeg": ["--model.network.init_args.width=8"],
    "Medverse": ["--model.network.init_args.widths=[4,8,8,8]"],
    "LVM": ["--model.network.init_args.width=32", "--model.network.init_args.depth=1"],
}


def files(recipe):
    base = next(entry.base for entry in contestants().values() if entry.recipe == recipe.stem)
    return ["--config", str(ROOT / base), "--config", str(recipe)]


@pytest.fixture
def parsed(capsys, monkeypatch, tmp_path):
    """Parses configurations as `mvg fit` does."""
    monkeypatch.setenv("MVG_DATA", "data")
    monkeypatch.chdir(tmp_path)

    def parse(words):
        with pytest.raises(SystemExit) as stopped:
            main(["fit", *words, "--print_config"])
        assert stopped.value.code == 0
        return yaml.safe_load(capsys.readouterr().out)

    return parse


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_starts_training(path, parsed):
    config = parsed(files(path))
    network, tasks = config["model"]["network"], config["data"]["tasks"]
    size = [32] * len(network["init_args"]["image_size"])
    heads = ["--model.network.init_args.heads=2"] if "heads" in network["init_args"] else []
    source = {"image_size": size, "anatomies": 2, "val_anatomies": 1, "test_anatomies": 1, "subjects": 8}
    sources = {"made": {"class_path": "mvg.data.synthetic.SyntheticAnatomy", "init_args": source}}
    weights = {name: 0.0 for name in ("tumour", "synthesis") if name in tasks and "tumour" in tasks}
    words = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1"]
    words += ["trainer.max_steps=2", "trainer.limit_val_batches=0", "trainer.precision=32", "trainer.callbacks=null"]
    words += ["data.workers=0", "data.batch_size=2", "data.epoch_length=4", f"data.weights={weights}", "no_report"]
    words += [f"model.network.init_args.image_size={size}", f"data.sources={yaml.safe_dump(sources)}"]
    narrow = SMALL[network["class_path"].rpartition(".")[2]]
    main(["fit", *files(path), "--data.val_length=0", *narrow, *heads, *(f"--{word}" for word in words)])
    with open(Path("runs") / path.stem / "metrics.csv") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]
    assert len(losses) == 2
    assert all(0 < loss < 1000 for loss in losses)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_nothing_of_another_recipe_is_left_in_the_network(path, parsed):
    alone, merged = parsed(files(path)[2:]), parsed(files(path))
    assert merged["model"]["network"] == alone["model"]["network"]
    assert all(merged["data"]["tasks"][name] == task for name, task in (alone["data"]["tasks"] or {}).items())
    base = parsed(files(path)[:2])
    assert merged["data"]["sources"] == base["data"]["sources"]
    same = ("optimizer", "minutes", "weight_decay", "warmup")
    assert all(merged["model"][name] == base["model"][name] for name in same)
