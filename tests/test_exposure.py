"""What weights say of the cases that trained them."""

import json

import numpy as np
import pytorch_lightning as pl
from PIL import Image

from mvg import weights
from mvg.data import EpisodeDataModule, FolderSource, ManifestSource, SyntheticAnatomy
from mvg.data.exposure import CASES, FILES, LISTS, NAME, PATIENTS, exposure, fingerprint_name, joined
from mvg.data.location import fingerprint
from mvg.data.manifest import read_manifest, write_manifest
from mvg.generalist import Generalist
from mvg.licences import inheritance
from mvg.models import CanvasViT, PatchStem
from mvg.saving import SaveWeights
from tasks import Segmentation


def pictures(root, count=4):
    for number in range(count):
        labels = np.zeros((16, 16), np.uint8)
        labels[4:12, 4 : 10 + number % 3] = 1
        for role, values in (("images", labels * 180 + number), ("labels", labels)):
            (root / role).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(root / role / f"a{number}_x.png")
    split = {"train": ["a[0-2]*"], "test": ["a3*"]}
    return FolderSource(str(root), name="pics", split=split, group_pattern="(a\\d)", cache=str(root / "cache"))


def test_training_cases_patients_and_images_are_listed_without_their_names(tmp_path):
    source = pictures(tmp_path)
    facts = exposure(source)
    assert facts[NAME] == "pics"
    assert facts[CASES] == sorted(fingerprint_name(f"a{k}_x") for k in range(3))
    assert facts[PATIENTS] == sorted(fingerprint_name(f"a{k}") for k in range(3))
    places = source.files()
    assert set(facts[FILES]) == {fingerprint(places[f"a{k}_x"]["image"])[:16] for k in range(3)}
    assert "_x" not in json.dumps(facts[CASES])


def test_manifests_state_their_hashes(tmp_path):
    pictures(tmp_path / "files")
    text = "case,split,role,path,sha256\n" + "".join(
        f"a{k},{split},image,files/images/a{k}_x.png,{k}{'0' * 63}\n" for k, split in enumerate(("train", "test"))
    )
    (tmp_path / "m.csv").write_text(text)
    write_manifest(tmp_path / "m.csv", read_manifest(tmp_path / "m.csv"))
    assert exposure(ManifestSource(str(tmp_path / "m.csv")))[FILES] == ["0" * 16]


def test_generated_data_show_nobody():
    assert exposure(SyntheticAnatomy([16, 16])).keys() == {NAME}


def test_joined_facts_keep_every_case():
    first, second = {"s": {CASES: ["a"], "licence": "old"}}, {"s": {CASES: ["b"], "licence": "new"}, "t": {}}
    assert joined(first, second) == {"s": {CASES: ["a", "b"], "licence": "new"}, "t": {}}


def test_a_fit_leaves_what_it_showed_and_passes_it_on(tmp_path):
    network = CanvasViT([16, 16], width=32, depth=1, heads=2, stem=PatchStem(8))
    data = EpisodeDataModule(
        [16, 16], {"pics": pictures(tmp_path / "pics")}, {"segmentation": Segmentation()}, in_channels=1,
        out_channels=network.out_channels, batch_size=1, epoch_length=1, val_length=0, workers=0,
    )  # fmt: skip
    trainer = pl.Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False,
        default_root_dir=tmp_path, callbacks=[SaveWeights()],
    )  # fmt: skip
    trainer.fit(Generalist(network), data)
    facts = weights.describe(tmp_path / "weights")
    assert len(facts["sources"]["pics"][CASES]) == 3
    passed = inheritance(facts, None)["pics"]
    assert {key: passed[key] for key in LISTS} == {key: facts["sources"]["pics"][key] for key in LISTS}
