"""Configurations of pretraining: who may train weights for everybody, and arms that change what they say."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from test_ablation import arms as arms

from benchmarks.ablation import Ablation
from benchmarks.evaluation import load_data
from mvg.data.cache import read_part, write_array
from mvg.models.initialise import initialise
from mvg.shipping import check_terms
from mvg.weights import build

CONFIGS = Path(__file__).parents[1] / "configs"
ARMS = Ablation(CONFIGS / "benchmark" / "pretraining.yaml", minutes=1)
OPEN = ("open_2d", "open_3d")
real_data = pytest.mark.skipif("MVG_DATA" not in os.environ, reason="needs real scans below MVG_DATA")


def read(name):
    return OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))


@pytest.mark.parametrize("name", OPEN)
def test_sources_of_shipped_weights_let_everybody_use_them_and_are_never_those_of_the_final_test(name):
    sources = read(f"data/{name}")["sources"]
    check_terms(
        {"sources": {source: {"licence": "CC0-1.0", **entry["init_args"]} for source, entry in sources.items()}}
    )
    unseen = {entry["init_args"]["root"] for entry in read("data/unseen")["sources"].values()}
    assert not unseen & {entry["init_args"].get("root") for entry in sources.values()}


@pytest.mark.parametrize(("name", "real"), [("open_2d", "real"), ("open_3d", "real_3d")])
def test_open_sources_are_those_of_the_real_ones_with_the_same_patients(name, real):
    known, found = read(f"data/{real}")["sources"], read(f"data/{name}")["sources"]
    assert all(found[source] == known[source] for source in found.keys() - {"synthetic"})


def test_networks_of_shipped_weights_are_those_of_the_project_and_fit_the_limit():
    shipped, known = read("pretrain_2d")["model"]["network"], read("network/mvg_small")
    size = shipped["init_args"].pop("image_size")
    known["init_args"].pop("image_size")
    assert shipped == known
    deep = read("network/mvg_small_3d")
    assert len(deep["init_args"].pop("image_size")) == 3
    assert deep == known
    with torch.device("meta"):
        network = build(known, image_size=size)
    assert 4 * sum(parameter.numel() for parameter in network.parameters()) < 29_000_000


def test_shipped_2d_weights_start_every_tensor_of_the_3d_network(caplog):
    config = read("pretrain_3d")["model"]
    network = build(CONFIGS / config["network"])
    with caplog.at_level(logging.INFO):
        initialise(network, weights=config["weights"])
    assert "start from the 2D network; not: none" in caplog.text


def test_prepared_arrays_of_any_order_of_axes_are_read(tmp_path):
    values = np.asfortranarray(np.arange(24, dtype=np.uint16).reshape(2, 3, 4))
    write_array(tmp_path / "a.npy", values)
    assert np.array_equal(read_part(tmp_path / "a.npy", 1, (2, 3, 4)), values[1])


def test_every_arm_is_one_factor_away_from_the_first():
    assert not ARMS.arms["ours"]
    assert all(len(arm) == 1 for name, arm in ARMS.arms.items() if name != "ours")
    assert len({ARMS.digest(arm) for arm in ARMS.arms}) == len(ARMS.arms)
    first = ARMS.data_of("autoencoder-first", first=True)
    assert first["tasks"]["inpainting"]["init_args"]["share"] == [0.5, 0.75]
    assert ARMS.data_of("autoencoder-first") == ARMS.data_of("ours")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"model": {"unpairing": [0.5, 1.0]}, "data": {"context_size": 2}},
        {"average": 0.5},
        {"first": {"share": 0.5, "tasks": {"all": {"mim": 1.0}}}},
        {"data": {"weights": {"synthetic": 0.0}}},
        {"data": {"weights": {"squares": 0.0}}},
    ],
    ids=["ours", "unpaired", "averaged", "first", "real", "synthetic"],
)
def test_synthetic_episodes_train_beside_files_and_only_patients_are_scored(arms, change):
    config = OmegaConf.load(arms.parent / "data.yaml")
    config.sources.synthetic = {
        "class_path": "mvg.data.SyntheticAnatomy",
        "init_args": {"image_size": [16, 16], "val_anatomies": 1, "test_anatomies": 1},
    }
    OmegaConf.save(config, arms.parent / "data.yaml")
    OmegaConf.save({**OmegaConf.load(arms), "unscored": ["synthetic"], "arms": {"arm": change}}, arms)
    ablation = Ablation(arms, minutes=1)
    network = ablation.build("arm")
    before = [parameter.clone() for parameter in network.parameters()]
    ablation.train("arm", network, 4)
    assert any(not torch.equal(*both) for both in zip(before, network.parameters(), strict=True))
    assert {record["source"] for record in ablation.score("arm", network.eval(), "val")} == {"squares"}


@real_data
@pytest.mark.parametrize(("name", "network"), [("open_2d", "mvg_small"), ("open_3d", "mvg_small_3d")])
def test_half_of_the_episodes_are_synthetic(name, network):
    data = load_data(CONFIGS / "data" / f"{name}.yaml", build(CONFIGS / "network" / f"{network}.yaml"))
    found = data.make_dataset("train").shares
    assert sum(share for pair, share in found.items() if pair[0] == "synthetic") == pytest.approx(0.5)


@real_data
@pytest.mark.parametrize(("arm", "share"), [("ours", 0.5), ("real-alone", 0), ("synthetic-alone", 1)])
def test_share_of_synthetic_episodes_of_an_arm(arm, share):
    data = load_data(OmegaConf.to_container(OmegaConf.create(ARMS.data_of(arm)), resolve=True), ARMS.build(arm))
    found = data.make_dataset("train").shares
    assert sum(part for pair, part in found.items() if pair[0] == "synthetic") == pytest.approx(share)
