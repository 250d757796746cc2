import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from test_generalist import Echo, Toy, episode

from mvg.drawing import draw_episodes, overlay, sheet, to_picture
from mvg.episode import Episode
from mvg.generalist import Generalist
from mvg.pictures import CanvasPictures


def batch(size=(16, 16), count=3, channels=1):
    image, target = torch.rand(2, count, channels, *size)
    images, targets = torch.rand(2, count, 2, channels, *size)
    flags = torch.arange(count) % 2 == 0
    weights = torch.ones_like(image[:, :1]), torch.ones_like(images[:, :, :1])
    return Episode(
        image,
        target,
        weights[0],
        images,
        targets,
        weights[1],
        flags,
        flags,
        torch.arange(count),
        tasks=("a/b",) * count,
    )


class TestPicture:
    def test_grey_values_become_equal_colours(self):
        picture = to_picture(torch.tensor([[[0.0, 0.5], [1.0, 2.0]]]), 2)
        assert picture.tolist() == [[[0] * 3, [128] * 3], [[255] * 3, [255] * 3]]

    def test_height_is_as_asked_and_the_aspect_is_kept(self):
        assert to_picture(torch.rand(1, 8, 12), 32).shape == (32, 48, 3)

    def test_volume_shows_its_middle_slice(self):
        volume = torch.rand(1, 5, 4, 4)
        assert np.array_equal(to_picture(volume, 4), to_picture(volume[:, 2], 4))

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_any_number_of_channels(self, channels):
        image = torch.rand(channels, 4, 4)
        first = to_picture(image, 4)[..., 0]
        assert np.array_equal(first, (image[0] * 255).round().to(torch.uint8).numpy())

    def test_broken_values_are_black(self):
        assert not to_picture(torch.full((1, 4, 4), torch.nan), 4).any()


class TestOverlay:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_empty_paint_shows_the_image(self, channels):
        image = torch.rand(1, 4, 4)
        assert np.array_equal(overlay(image, torch.zeros(channels, 4, 4), 8), to_picture(image, 8))

    def test_grey_paint_is_a_red_veil(self):
        picture = overlay(torch.zeros(1, 1, 2), torch.tensor([[[0.0, 1.0]]]), 1)
        assert not picture[0, 0].any()
        assert picture[0, 1, 0] > 2 * picture[0, 1, 1:].max()

    def test_coloured_paint_keeps_its_colour(self):
        paint = torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1).expand(3, 2, 2)
        assert overlay(torch.zeros(1, 2, 2), paint, 2, opacity=1)[0, 0].tolist() == [0, 255, 0]


class TestSheet:
    @pytest.mark.parametrize("size", [(16, 16), (4, 16, 16)])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_row_holds_examples_query_answer_and_truth(self, size, channels):
        one = batch(size, channels=channels)
        page = np.asarray(draw_episodes(one, torch.zeros_like(one.target), size=32))
        assert page.shape == (22 + 3 * (32 + 18 + 4), 7 * 32 + 8 * 4, 3)
        # row 1 is an image task: its painted tile is black, its truth is the target
        top = 22 + 1 * (32 + 18 + 4) + 18
        tile = lambda column: page[top : top + 32, 4 + column * 36 : 36 + column * 36]  # noqa: E731
        assert not tile(5).any()
        assert np.array_equal(tile(6), to_picture(one.target[1], 32))
        assert np.array_equal(tile(4), to_picture(one.image[1], 32))

    def test_no_more_rows_and_pairs_than_asked(self):
        one = batch(count=5)
        page = draw_episodes(one, one.target, size=32, pairs=1, most=2)
        assert page.size == (5 * 32 + 6 * 4, 22 + 2 * 54)

    def test_tiles_of_different_widths_line_up(self):
        rows = [[np.full((8, 8, 3), 9, np.uint8)] * 2, [np.full((8, 20, 3), 99, np.uint8)] * 2]
        page = np.asarray(sheet(rows, ["a", "b"], ["x", "y"]))
        columns = np.flatnonzero((page == 99).all(-1).any(0))
        assert columns.tolist() == [*range(4, 24), *range(28, 48)]


class TestCallback:
    def validate(self, folder, callback, times=1, **options):
        model = Generalist(Echo())
        trainer = pl.Trainer(
            accelerator="cpu", default_root_dir=folder, callbacks=[callback], logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, **options,
        )  # fmt: skip
        for _ in range(times):
            trainer.validate(model, datamodule=Toy(), verbose=False)
        return model

    def test_validation_leaves_a_picture_of_its_first_batch(self, tmp_path):
        model = self.validate(tmp_path, CanvasPictures(rows=2, size=32))
        (path,) = (tmp_path / "pictures").iterdir()
        first = Episode.collate([episode(0), episode(1, "toy/denoising")])
        painted = model(first.image, first.context_images, first.context_targets)
        expected = draw_episodes(first, painted, 32)
        assert path.name == "step-000000.png"
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(expected))

    def test_pictures_are_as_rare_as_asked(self, tmp_path, monkeypatch):
        drawn = []
        page = Image.new("RGB", (2, 2))
        monkeypatch.setattr("mvg.pictures.draw_episodes", lambda *_, **__: drawn.append(1) or page)
        self.validate(tmp_path, CanvasPictures(every=3), times=5)
        assert len(drawn) == 2

    @pytest.mark.parametrize("arguments", [{"rows": 0}, {"every": 0}])
    def test_no_rows_are_refused(self, arguments):
        with pytest.raises(ValueError, match="at least 1"):
            CanvasPictures(**arguments)
