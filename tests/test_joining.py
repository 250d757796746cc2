"""Many data sets in one training, each asked what its own recipe serves."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mvg.cli import main
from mvg.data.datasets import DATASETS
from mvg.data.datasets.configuration import data_options

ROOT = Path(__file__).parents[1]
ORGANS = ["amos-ct", "amos-mri", "word", "btcv", "microsegnet", "promise12", "acdc", "la2018", "montgomery"]
FIT = ["fit", "--config", str(ROOT / "configs/mvg_8gpu.yaml")]
PAPER = [*ORGANS, "brats-gli", "brats-inpainting", "ldct-chest", "deeplesion"]


def write(folder, name, options):
    path = folder / f"{name}.yaml"
    source = {"class_path": "mvg.data.ManifestSource", "init_args": {"manifest": f"{name}.csv"}}
    OmegaConf.save({"data": {"sources": {name: source}, **options}}, path)
    return str(path)


def join(folder, paths, *words):
    main(["data", "join", "--configs", f"[{','.join(paths)}]", "--output", str(folder / "all.yaml"), *words])
    return OmegaConf.load(folder / "all.yaml").data


def test_the_sets_of_the_paper_train_together_each_with_its_own_tasks(tmp_path, capsys):
    data = join(tmp_path, [write(tmp_path, name.replace("-", "_"), data_options(DATASETS[name])) for name in PAPER])
    assert len(data.sources) == 13
    asked = {(s, t) for s in data.sources for t in data.tasks if f"{s}/{t}" not in data.weights}
    assert asked == {(name.replace("-", "_"), task) for name in PAPER for task in DATASETS[name].tasks}
    with pytest.raises(SystemExit):
        main([*FIT, "--config", str(tmp_path / "all.yaml"), "--print_config"])
    parsed = OmegaConf.create(capsys.readouterr().out).data
    assert parsed.sources.keys() == data.sources.keys()
    assert parsed.batch_size == 16


def test_names_that_mean_two_things_are_refused_and_nothing_is_replaced(tmp_path, capsys):
    one = write(tmp_path, "one", {"tasks": {"a": {"class_path": "tasks.Segmentation"}}})
    other = write(tmp_path, "other", {"tasks": {"a": {"class_path": "tasks.Denoising"}}})
    bare = write(tmp_path, "bare", {"tasks": {}})
    for paths, text in (([one, other], "the task 'a'"), ([bare], "names no tasks"), (["none.yaml"], "no such")):
        with pytest.raises(SystemExit):
            join(tmp_path, paths)
        assert text in capsys.readouterr().err
    join(tmp_path, [one])
    with pytest.raises(SystemExit):
        join(tmp_path, [one])
    assert join(tmp_path, [one], "--overwrite", "true").weights is None
