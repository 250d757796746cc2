"""What runs inside of the container: reads /input/images/SLUG, answers after examples, writes /output/images/SLUG.

    python -m benchmarks.grand_challenge.inference

The platform mounts the input read-only, without a network, and takes what lies below /output. The model is a folder:

    weights/            what `mvg fit` left in <run>/weights
    context/images/     the examples ...
    context/targets/    ... with their targets, of the same names
    settings.json       {"output": SLUG, "input": SLUG, "task": NAME, "options": ["--slices", "axial"]}

Of the settings only `output` is needed: `input` where images of several kinds come, `task` where the weights know
several; `options` are those of `mvg predict`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import SimpleITK as sitk
import torch

from mvg.cli import main as mvg_command

log = logging.getLogger(__name__)

MODELS = (Path("/opt/ml/model"), Path("/opt/app/model"))
"""Where the model may lie: uploaded apart from the container, or copied into it."""
ACCEPTED = (".mha", ".tif", ".tiff")
"""Kinds of images that the platform exchanges."""


@dataclass(frozen=True)
class Settings:
    """What the model wants to be asked.

    Attributes:
        output: Folder of the answers below /output/images.
        input: Folder of the images below /input/images; "" where there is one.
        task: Task of the weights; "" where they know one.
        options: Further options of `mvg predict`.
    """

    output: str
    input: str = ""
    task: str = ""
    options: Sequence[str] = ()


def read_settings(path: Path) -> Settings:
    """Reads `settings.json`.

    Raises:
        ValueError: If it is missing, or holds something else, or names a folder outside.
    """
    if not path.is_file():
        raise ValueError(f'{path}: there are no settings; write {{"output": SLUG}} with the slug of the answers')
    content = json.loads(path.read_text("utf-8"))
    known = [field.name for field in fields(Settings)]
    if not content.get("output") or set(content) - set(known):
        raise ValueError(f"{path} must hold `output` and may hold {', '.join(known[1:])}, got {', '.join(content)}")
    settings = Settings(**content)
    for slug in (settings.output, settings.input):
        if Path(slug).name != slug:
            raise ValueError(f"{path}: a slug is the name of a folder, got {slug!r}")
    return settings


def find_images(folder: Path, slug: str) -> list[Path]:
    """Lists the images to answer, `folder/images/SLUG/UUID.mha`.

    Raises:
        ValueError: If there are none, or several slugs and none is named.
    """
    slugs = sorted(path.name for path in (folder / "images").glob("*") if path.is_dir())
    if not slug and len(slugs) != 1:
        raise ValueError(
            f"{folder}/images holds {', '.join(slugs) or 'no folder'}; name one as `input` in settings.json"
        )
    chosen = folder / "images" / (slug or slugs[0])
    images = sorted(path for path in chosen.glob("*") if path.suffix.lower() in ACCEPTED)
    if not images:
        raise ValueError(f"{chosen}: there is no image ({', '.join(ACCEPTED)}); folders there are: {', '.join(slugs)}")
    return images


def answer(image: Path, model: Path, settings: Settings, output: Path, device: str) -> Path:
    """Answers one image and puts the answer alone into `output`, whole or not at all."""
    words = ["--weights", str(model / "weights"), "--context", str(model / "context"), "--input", str(image)]
    words += ["--device", device, *(["--task", settings.task] if settings.task else []), *settings.options]
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as work:
        mvg_command(["--offline", "predict", *words, "--output", work])
        (made,) = (path for path in Path(work).iterdir() if path.suffix != ".json")
        if made.suffix.lower() not in ACCEPTED:
            sitk.WriteImage(sitk.ReadImage(str(made)), str(made.with_suffix(".mha")), True)
            made = made.with_suffix(".mha")
        kept = output / made.name
        os.replace(made, kept)
    return kept


def run(source: Path, target: Path, model: Path, device: str | None = None) -> list[Path]:
    """Answers all images of a job.

    Args:
        source: The platform's /input.
        target: The platform's /output.
        model: Folder of weights, examples and settings.
        device: "cpu" or "cuda"; by default cuda where there is one.

    Returns:
        The answers.

    Raises:
        ValueError: If model or input are incomplete.
        SystemExit: If an image cannot be answered.
    """
    settings = read_settings(model / "settings.json")
    images = find_images(source, settings.input)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    output = target / "images" / settings.output
    return [answer(image, model, settings, output, device) for image in images]


def main(args: Sequence[str] | None = None) -> None:
    """Runs inside of the container; ends with a status other than 0 where something is wrong.

    Args:
        args: The words of the command, by default those of the process.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--input", type=Path, default=Path("/input"), help="The platform's folder of inputs.")
    parser.add_argument("--output", type=Path, default=Path("/output"), help="The platform's folder of outputs.")
    parser.add_argument("--model", type=Path, help="Weights, examples and settings; /opt/ml/model or /opt/app/model.")
    options = parser.parse_args(args)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    model = options.model or next((path for path in MODELS if (path / "settings.json").is_file()), MODELS[0])
    try:
        answers = run(options.input, options.output, model)
    except ValueError as error:
        sys.exit(str(error))
    log.info("%d answers written", len(answers))


if __name__ == "__main__":
    main()
