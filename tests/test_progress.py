"""What the progress bar of a fit says."""

from types import SimpleNamespace

import pytest

from mvg.progress import Progress


@pytest.mark.parametrize(
    ("minutes", "seconds", "said"), [(5, 90.0, "1.5/5"), (0.5, 31.0, "0.5/0.5"), (None, 9.0, None)]
)
def test_a_training_by_minutes_says_how_many_are_spent(minutes, seconds, said):
    trainer = SimpleNamespace(loggers=[], progress_bar_metrics={"train/loss": 1.0})
    metrics = Progress().get_metrics(trainer, SimpleNamespace(minutes=minutes, seconds=seconds))
    assert metrics.get("min") == said
    assert metrics["train/loss"] == 1.0


@pytest.mark.parametrize(("epochs", "said"), [(-1, "Epoch 3"), (10, "Epoch 3/9")])
def test_epochs_without_an_end_name_none(epochs, said):
    bar = Progress()
    bar._trainer = SimpleNamespace(max_epochs=epochs, sanity_checking=False)
    assert bar._get_train_description(3).strip() == said
