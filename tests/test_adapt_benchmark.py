"""`benchmarks.adapt`: the same cases for all methods, jobs that are not run twice, and what is computed from them."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import tasks
from benchmarks import adapt, adapt_report
from mvg import weights
from mvg.data import FolderSource
from mvg.models import CanvasViT, ConvStem, UNetDecoder


@pytest.fixture
def root(tmp_path):
    """Ten pictures of a bright square, weights of a small network, and a configuration."""
    for number in range(10):
        rng = np.random.default_rng(number)
        labels = np.zeros((16, 16), np.uint8)
        top, left = rng.integers(1, 8, 2)
        labels[top : top + 7, left : left + 7] = 1
        for name, values in (("images", labels * 150 + rng.integers(0, 60, labels.shape)), ("labels", labels)):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(tmp_path / "data" / name / f"{number}.png")
    torch.manual_seed(0)
    made = CanvasViT([16, 16], width=16, depth=1, heads=1, stem=ConvStem([16, 16]), decoder=UNetDecoder())
    weights.save(tmp_path / "weights", made, {"segmentation": tasks.Segmentation()})
    (tmp_path / "data.yaml").write_text(
        "sources: {squares: {class_path: mvg.data.FolderSource, init_args: "
        f"{{root: {tmp_path}/data, cache: {tmp_path}/cache, split: {{train: 0.5, val: 0.2, test: 0.3}}}}}}}}\n"
        "tasks: {segmentation: {class_path: tasks.Segmentation}}\nval_length: 0\n"
    )
    return tmp_path


def run(root, *options):
    words = ["--weights", str(root / "weights"), "--config", str(root / "data.yaml"), "--output", str(root / "out")]
    adapt.main([*words, "--steps", "3", "--unet-steps", "2", "--threads", "1", *options])


def test_table_and_curve_are_made_of_jobs_that_are_run_once(root, capsys, monkeypatch):
    words = ("--split", "test", "--cases", "1", "3", "--methods", "context", "lora")
    run(root, *words, "--patients", "2")
    monkeypatch.setattr(adapt, "run_job", lambda *_: pytest.fail("a job was done twice"))
    run(root, *words, "--patients", "2")
    assert "| squares/segmentation | dice | 1 | 2 | 3 |" in capsys.readouterr().out
    records = pd.read_csv(root / "out" / "test" / "records.csv")
    assert records["case"].nunique() == 2
    assert set(records[records["entrant"] == "context"]["shot"]) == {1, 3}
    assert set(records[records["entrant"] == "lora"]["parameters"]) != {0}
    assert (root / "out" / "test" / "curve.png").is_file()
    assert len(list((root / "out" / "test" / "jobs").iterdir())) == 4
    with pytest.raises(ValueError, match="says patients 2, asked is 16"):
        run(root, *words)


def test_learning_rates_are_chosen_on_validation_patients_and_used_for_test(root):
    words = ("--cases", "2", "--methods", "head", "unet")
    run(root, *words, "--factors", "0.1", "1")
    chosen = json.loads((root / "out" / "rates.json").read_text())
    assert set(chosen) == {"head", "unet"}
    asked = pd.read_csv(root / "out" / "val" / "records.csv")
    held = FolderSource(str(root / "data"), cache=str(root / "cache"), split={"train": 0.5, "val": 0.2, "test": 0.3})
    assert set(asked["case"].astype(str)) == {item.case for item in held.items("val")}
    run(root, *words, "--split", "test")
    records = pd.read_csv(root / "out" / "test" / "records.csv")
    assert {row.entrant: row.rate for row in records.itertuples()} == pytest.approx(chosen)
    with pytest.raises(SystemExit):
        run(root, "--split", "test", "--factors", "1", "3")


def test_the_best_learning_rate_is_that_of_the_mean_over_sources():
    same = {"entrant": "lora", "task": "t", "metric": "dice", "cases": 5, "seed": 0, "variant": "one"}
    values = (("a", 1e-3, 0.9), ("b", 1e-3, 0.1), ("a", 1e-2, 0.6), ("b", 1e-2, 0.6))
    rows = [{**same, "source": source, "rate": rate, "value": value} for source, rate, value in values]
    assert adapt_report.best_rates(pd.DataFrame(rows)) == {"lora": 1e-2}


def test_fewer_cases_are_part_of_more_and_never_test_patients(root):
    source = FolderSource(str(root / "data"), cache=str(root / "cache"), split={"train": 0.5, "val": 0.2, "test": 0.3})
    few, more = adapt.choose_cases(source, 2, 3), adapt.choose_cases(source, 4, 3)
    assert more[:2] == few
    assert not set(more) & {item.case for item in source.items("test")}
    assert {item.case for item in adapt.FewCases(source, few).items("train")} == set(few)
    with pytest.raises(ValueError, match="has 5 training patients, fewer than 6"):
        adapt.choose_cases(source, 6, 0)


def test_means_are_over_the_classes_that_every_job_knows():
    same = {"source": "s", "task": "t", "case": "a", "patient": "a", "entrant": "lora", "metric": "dice", "seed": 0}
    values = ((1, "one", 0.2), (2, "one", 0.6), (2, "two", 0.0))
    rows = [{**same, "cases": number, "variant": variant, "value": value} for number, variant, value in values]
    found = adapt_report.summary(pd.DataFrame(rows))
    assert found["mean"].tolist() == pytest.approx([0.2, 0.6])
    assert found["variants"].tolist() == [1, 1]
