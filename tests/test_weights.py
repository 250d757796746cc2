import ast
import getpass
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from test_canvas_vit import PRESETS, draw, make, paint

import mvg
import mvg.data
import mvg.models
import mvg.weights
from mvg.data import FolderSource, SyntheticAnatomy, Window
from mvg.lazy import lazy
from mvg.models import CanvasViT, InContextModel, PatchStem, UniverSeg
from mvg.models.initialise import initialise, read_vit
from mvg.saving import facts_of
from mvg.weights import build, describe, load, load_aspect, load_tasks, save
from tasks import Denoising, Segmentation

ROOT = Path(__file__).parents[1]
LAZY = (mvg, mvg.data, mvg.models)
VIT = {"image_size": [64, 64], "width": 192, "depth": 12, "heads": 3}


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path / "weights", make("paper"), {"organs": Segmentation(scheme="random", channels=3)})


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=64)


@pytest.fixture
def vit_file(vit, tmp_path):
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    return str(tmp_path / "vit.safetensors")


class TestFolder:
    @pytest.mark.parametrize("name", PRESETS)
    def test_loaded_network_paints_the_same(self, name, tmp_path):
        network = make(name)
        loaded = load(save(tmp_path / "weights", network))
        episode = draw(network, batch=1)
        assert torch.equal(paint(network, episode), paint(loaded, episode))
        assert torch.equal(network.loss(episode)["loss"], loaded.loss(episode)["loss"])
        assert not loaded.training

    def test_tasks_come_back_with_their_arguments(self, folder):
        task = load_tasks(folder)["organs"]
        assert (type(task), task.scheme, task.channels) == (Segmentation, "random", 3)

    def test_folder_says_what_it_is(self, tmp_path):
        sources = {"hippocampus": {"licence": "CC-BY-SA-4.0"}}
        metrics = {"val/score": 0.75, "val/undefined": float("nan")}
        folder = save(tmp_path / "a", make("paper"), {"denoising": Denoising()}, sources, metrics)
        assert describe(folder)["metrics"] == {"val/score": 0.75}
        card = (folder / "README.md").read_text()
        assert all(text in card for text in ("tasks.denoising.Denoising", "hippocampus: CC-BY-SA-4.0", "0.7500"))

    def test_no_byte_names_this_machine(self, folder):
        names = [str(folder), str(ROOT), str(Path.home()), f"/{getpass.getuser()}"]
        for path in folder.iterdir():
            content = path.read_bytes()
            assert not [name for name in names if len(name) > 4 and name.encode() in content]

    def test_folder_says_how_its_sources_were_prepared_but_not_where_they_lie(self, tmp_path):
        options = {"class_names": {"labels": {1: "liver"}}, "intensity": {"image": Window(0, 80)}, "modality": "CT"}
        files = FolderSource("/secret/place", {"image": "images", "labels": "labels"}, "abdomen", **options)
        sources = {"files": facts_of(files, "pad"), "shapes": facts_of(SyntheticAnatomy([16, 16]))}
        folder = save(tmp_path / "a", make("paper"), sources=sources)
        assert describe(folder)["sources"]["files"] == {
            "licence": "unknown",
            "modality": "CT",
            "class_names": {"labels": {"1": "liver"}},
            "intensity": {
                "image": {"class_path": "mvg.data.intensity.Window", "init_args": {"low": 0, "high": 80}},
            },
            "aspect": "pad",
            "slices": "auto",
            "trim": False,
        }
        assert "secret" not in (folder / "config.json").read_text()
        assert load_aspect(folder) == "pad"

    def test_older_folder_is_replaced_whole(self, folder):
        (folder / "stale.txt").touch()
        network = make("codes")
        save(folder, network)
        assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
        assert load(folder).state_dict().keys() == network.state_dict().keys()
        assert [path.name for path in folder.parent.iterdir()] == ["weights"]

    @pytest.mark.parametrize("moment", ["write_tensors", "card"])
    def test_failure_leaves_the_older_folder(self, folder, moment, monkeypatch):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}

        def fail(*_):
            raise OSError("no space left")

        monkeypatch.setattr(mvg.weights, moment, fail)
        with pytest.raises(OSError, match="no space"):
            save(folder, make("codes"))
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert [path.name for path in folder.parent.iterdir()] == ["weights"]

    def test_failed_move_puts_the_older_folder_back(self, folder, monkeypatch):
        before, rename = (folder / "config.json").read_bytes(), Path.rename

        def fail(path, to):
            if to == folder and path.parent == folder.parent:
                raise OSError("no")
            return rename(path, to)

        monkeypatch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="no"):
            save(folder, make("codes"))
        assert (folder / "config.json").read_bytes() == before
        assert [path.name for path in folder.parent.iterdir()] == ["weights"]


class TestDamage:
    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_missing_file_is_named(self, folder, name):
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"no {name} in .*<run>/weights"):
            load(folder)

    @pytest.mark.parametrize("content", [b'{"format": 1', b"\xff\xfe\x00", b"[1]", b"null", b'{"format": 1}'])
    def test_damaged_description_is_named(self, folder, content):
        (folder / "config.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"config.json is damaged|has format None"):
            load(folder)

    def test_other_format_is_named(self, folder):
        self.change(folder, format=2)
        with pytest.raises(ValueError, match="has format 2, this version reads 1"):
            describe(folder)

    @pytest.mark.parametrize("length", [4, 300, -4])
    def test_truncated_weights_are_named(self, folder, length):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(ValueError, match=r"model.safetensors is damaged"):
            load(folder)

    @pytest.mark.parametrize(("name", "value"), [("depth", 4), ("depth", 2), ("width", 48)])
    def test_weights_of_another_network_are_refused(self, folder, name, value):
        network = json.loads((folder / "config.json").read_text())["network"]
        network["init_args"][name] = value
        self.change(folder, network=network)
        with pytest.raises(ValueError, match="do not fit this network"):
            load(folder)

    @pytest.mark.parametrize("key", ["network", "tasks"])
    def test_class_of_a_stranger_is_not_imported(self, folder, key, tmp_path, monkeypatch):
        (tmp_path / "stranger.py").write_text("raise SystemExit('imported')")
        monkeypatch.syspath_prepend(tmp_path)
        entry = {"class_path": "stranger.Evil", "init_args": {}}
        self.change(folder, **{key: entry if key == "network" else {"a": entry}})
        with pytest.raises(ValueError, match="--allow-class-path stranger"):
            (load if key == "network" else load_tasks)(folder)

    @staticmethod
    def change(folder, **values):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))


class TestBuild:
    def test_changes_replace_what_the_file_says(self):
        network = build(ROOT / "configs/network/mvg_paper.yaml", width=48, depth=1, heads=2, image_size=[32, 32])
        assert (network.image_size, network.init_args["width"]) == ((32, 32), 48)

    @pytest.mark.parametrize(
        ("config", "error", "said"),
        [
            ("nothing.yaml", FileNotFoundError, "configs/network"),
            ({"init_args": {}}, ValueError, "`class_path`"),
            ({"class_path": "tasks.Denoising"}, ValueError, "is no network, but a Denoising"),
            ({"class_path": "mvg.models.Nothing"}, ValueError, "does not exist"),
            ({"class_path": "os.system"}, ValueError, "trusted"),
        ],
    )
    def test_what_is_no_network_is_refused(self, config, error, said):
        with pytest.raises(error, match=said):
            build(config)


class TestInitialise:
    def test_own_folder_fills_every_tensor(self, folder):
        network = CanvasViT(**PRESETS["paper"])
        initialise(network, weights=str(folder))
        own, given = network.state_dict(), load(folder).state_dict()
        assert all(torch.equal(own[name], given[name]) for name in given)

    def test_folder_of_another_network_is_refused(self, folder):
        with pytest.raises(ValueError, match="do not fit this network: absolute"):
            initialise(make("codes"), weights=str(folder))

    def test_blocks_are_those_of_the_vit(self, vit, vit_file):
        network = CanvasViT(**VIT, absolute=4)
        initialise(network, vit_file)
        own, given = network.state_dict(), vit.state_dict()
        assert all(torch.equal(own[name], given[name]) for name in given if name.startswith("blocks."))
        assert torch.equal(own["absolute"], given["pos_embed"])

    def test_block_computes_what_the_vit_block_does(self, vit, vit_file):
        network = CanvasViT(**VIT)
        initialise(network, vit_file)
        x = torch.randn(1, 16, 192)
        with torch.no_grad():
            torch.testing.assert_close(network.blocks[3](x, None, (4, 4)), vit.blocks[3](x), atol=1e-5, rtol=1e-5)

    def test_grey_image_gets_the_token_of_its_colour_copy(self, vit, vit_file):
        network = CanvasViT(**VIT, out_channels=3)
        initialise(network, vit_file)
        image = torch.rand(1, 1, 64, 64)
        with torch.no_grad():
            expected = vit.patch_embed.proj(image.expand(-1, 3, -1, -1))
            torch.testing.assert_close(network.stem.embed_image(image), expected, atol=1e-5, rtol=1e-4)
            colour = torch.rand(1, 3, 64, 64)
            assert torch.equal(network.stem.embed_label(colour), vit.patch_embed.proj(colour))

    def test_six_equal_channels_get_the_token_of_the_colour_copy(self, vit_file):
        grey, many = CanvasViT(**VIT), CanvasViT(**VIT, in_channels=6)
        initialise(grey, vit_file)
        initialise(many, vit_file)
        image = torch.rand(1, 1, 64, 64)
        with torch.no_grad():
            tokens = [grey.stem.embed_image(image), many.stem.embed_image(image.expand(-1, 6, -1, -1))]
        torch.testing.assert_close(*tokens, atol=1e-5, rtol=1e-4)

    def test_positions_are_resized(self, vit, vit_file):
        network = CanvasViT(**VIT, absolute=8)
        initialise(network, vit_file)
        given = vit.state_dict()["pos_embed"]
        grown = network.absolute[:, 1:].detach().view(8, 8, -1)
        shrunk = grown.view(4, 2, 4, 2, -1).mean((1, 3)).reshape(1, 16, -1)
        assert torch.equal(network.absolute[:, :1], given[:, :1])
        similar = torch.cosine_similarity(shrunk, given[:, 1:], -1)
        assert similar.min() > 0.8

    def test_smaller_patches_are_resampled(self, vit_file):
        network, small = CanvasViT(**VIT), CanvasViT(**VIT, stem=PatchStem(8))
        for each in (network, small):
            initialise(each, vit_file)
        flat = torch.full((1, 1, 64, 64), 0.7)
        with torch.no_grad():
            tokens = [each.stem.embed_image(flat)[0, :, 1, 1] for each in (network, small)]
        assert torch.cosine_similarity(*tokens, 0) > 0.95

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"depth": 4}, "have 12 blocks, the network 4"),
            ({"depth": 13}, "have 12 blocks, the network 13"),
            ({"width": 96}, r"shape .*192.*`width`"),
            ({"mlp_ratio": 2.0}, "`mlp_ratio`"),
        ],
    )
    def test_other_shape_is_refused(self, changes, said, vit_file):
        with pytest.raises(ValueError, match=said):
            initialise(CanvasViT(**VIT | changes), vit_file)

    def test_additions_to_the_block_are_refused(self, vit, tmp_path):
        state = vit.state_dict() | {"blocks.0.ls1.gamma": torch.ones(192)}
        save_file(state, tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match=r"hold blocks.0.ls1.gamma, for which the network has no place"):
            initialise(CanvasViT(**VIT), str(tmp_path / "a.safetensors"))

    def test_weights_without_blocks_are_refused(self, tmp_path):
        save_file({"conv1.weight": torch.ones(1)}, tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match="no transformer blocks"):
            initialise(CanvasViT(**VIT), str(tmp_path / "a.safetensors"))

    @pytest.mark.parametrize("key", ["model", "state_dict", None])
    def test_pickled_weights_are_read_from_where_they_lie(self, vit, key, tmp_path):
        torch.save({key: vit.state_dict()} if key else vit.state_dict(), tmp_path / "a.pth")
        assert read_vit(str(tmp_path / "a.pth")).keys() == vit.state_dict().keys()

    def test_pickled_code_is_not_run(self, tmp_path):
        torch.save({"model": Path("x")}, tmp_path / "a.pth")
        with pytest.raises(ValueError, match="damaged, or holds more than weights"):
            read_vit(str(tmp_path / "a.pth"))

    def test_missing_file_is_named(self):
        with pytest.raises(FileNotFoundError, match=r"nothing.pth"):
            read_vit("nothing.pth")

    def test_name_is_looked_up_in_timm(self, vit, monkeypatch):
        asked = []
        monkeypatch.setattr(timm, "create_model", lambda name, pretrained: asked.append((name, pretrained)) or vit)
        network = CanvasViT(**VIT)
        initialise(network, "vit_tiny_patch16_224")
        assert asked == [("vit_tiny_patch16_224", True)]
        assert torch.equal(network.blocks[0].attn.qkv.weight, vit.blocks[0].attn.qkv.weight)

    def test_unknown_name_lists_the_known(self):
        with pytest.raises(ValueError, match="vit_tiny_patch16_224"):
            read_vit("vit_tiny_patch16_22")

    def test_log_says_how_much_was_taken(self, vit_file, caplog):
        with caplog.at_level(logging.INFO, "mvg"):
            initialise(CanvasViT(**VIT), vit_file)
        assert "148 of" in caplog.text


class TestPackage:
    def test_import_is_quick(self):
        code = "import sys, mvg; sys.exit(bool({'torch', 'numpy', 'pandas'} & set(sys.modules)))"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

    def test_predictor_starts_without_what_only_training_or_reading_needs(self):
        code = "import sys, mvg; mvg.Predictor; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        unneeded = {"pytorch_lightning", "torchmetrics", "timm", "torchio", "pandas", "SimpleITK"}
        assert not unneeded & set(done.stdout.split())

    @pytest.mark.parametrize(("package", "name"), [(package, name) for package in LAZY for name in package.__all__])
    def test_public_name_is_what_its_module_holds(self, package, name):
        value = getattr(package, name)
        assert name in dir(package)
        assert getattr(sys.modules[value.__module__], name) is value

    def test_unknown_name_lists_the_known(self):
        with pytest.raises(AttributeError, match="no attribute 'Trainer'; it offers Answer, Episode"):
            _ = mvg.Trainer

    @pytest.mark.parametrize("package", LAZY)
    def test_type_checkers_take_every_public_name_for_exported(self, package):
        tree = ast.walk(ast.parse(Path(package.__file__).read_text()))
        shown = [(alias.name, alias.asname) for node in tree if isinstance(node, ast.If) for line in node.body
                 if isinstance(line, ast.ImportFrom) for alias in line.names]  # fmt: skip
        assert sorted(shown) == [(name, name) for name in package.__all__]

    def test_package_without_source_is_refused(self, monkeypatch):
        monkeypatch.setattr(mvg.__spec__, "loader", None)
        with pytest.raises(ImportError, match="install it with sources"):
            lazy("mvg")


class TestPretrained:
    def test_a_network_writes_and_opens_itself(self, tmp_path):
        network = make("codes")
        network.save_pretrained(tmp_path / "a", tasks={"denoising": Denoising()}, metrics={"val/score": 0.5})
        for kind in (CanvasViT, InContextModel):
            loaded = kind.from_pretrained(tmp_path / "a" / "model.safetensors")
            assert all(torch.equal(value, network.state_dict()[key]) for key, value in loaded.state_dict().items())
        assert list(describe(tmp_path / "a")["tasks"]) == ["denoising"]

    def test_another_class_refuses_it(self, folder):
        with pytest.raises(ValueError, match="holds a CanvasViT, not a UniverSeg"):
            UniverSeg.from_pretrained(folder)

    def test_a_file_of_others_is_sent_to_the_converter(self, tmp_path):
        torch.save({}, tmp_path / "a.pth")
        with pytest.raises(ValueError, match="`mvg weights convert`"):
            load(tmp_path / "a.pth")

    def test_a_mistyped_folder_is_not_looked_for_in_the_network(self, monkeypatch):
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
        with pytest.raises(FileNotFoundError, match="it would be hub:runs/weight"):
            load("runs/weight")


class TestHub:
    @pytest.mark.parametrize(("name", "revision"), [("hub:lab/net", None), ("hub:lab/net@v2", "v2")])
    def test_only_safetensors_and_json_are_fetched(self, name, revision, folder, monkeypatch):
        asked = []
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: asked.append((a, k)) or str(folder))
        assert load(name).state_dict().keys() == load(folder).state_dict().keys()
        files = ["model.safetensors", "config.json", "README.md"]
        assert asked == [(("lab/net",), {"revision": revision, "allow_patterns": files})]

    def test_without_a_network_the_refusal_is_plain(self, monkeypatch, tmp_path):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(FileNotFoundError, match="not fetched before, and --offline or HF_HUB_OFFLINE forbids it"):
            load("hub:lab/net")

    @pytest.mark.parametrize("name", ["hub:net", "hub:a/b/c", "hub:", "hub:a b/../c"])
    def test_what_is_no_name_is_refused(self, name):
        with pytest.raises(ValueError, match=r"hub:OWNER/NAME|no name of the hub"):
            load(name)
