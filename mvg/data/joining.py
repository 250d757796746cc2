"""Joins the configurations of several data sets into one: `mvg data join`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mvg.files import write_atomically

logger = logging.getLogger(__name__)


def join(configs: list[Path], output: Path, overwrite: bool = False) -> None:
    """Joins configurations that `mvg data prepare` wrote, so that one training takes all of their data sets.

    Every data set is asked the tasks of its own configuration alone, however many others it would suit.

    Args:
        configs: The configurations.
        output: The joined one, for `mvg fit --config configs/my_scans.yaml --config OUTPUT`.
        overwrite: Replace it if it exists.

    Raises:
        ValueError: If a configuration names no source or no task, or two of them mean different things by one name.
    """
    if output.exists() and not overwrite:
        raise ValueError(f"{output} exists; name another file, or add --overwrite true to replace it")
    joined: dict[str, dict[str, Any]] = {"sources": {}, "tasks": {}}
    serves: dict[str, set[str]] = {}
    for path in configs:
        data = read_data(path)
        for kind, known in joined.items():
            for name, entry in data[kind].items():
                if known.setdefault(name, entry) != entry:
                    raise ValueError(
                        f"{path} means something else by the {kind[:-1]} {name!r}; rename it in one of them"
                    )
        for source in data["sources"]:
            serves.setdefault(source, set()).update(data["tasks"])
    silent = {f"{source}/{task}": 0.0 for source in serves for task in joined["tasks"] if task not in serves[source]}
    text = OmegaConf.to_yaml(OmegaConf.create({"data": {**joined, "weights": silent or None}}))
    write_atomically(output, lambda file: file.write(text.encode()))
    logger.info("%d data sets in %s: %s", len(serves), output, ", ".join(serves))


def read_data(path: Path) -> dict[str, Any]:
    """Reads the `data` of a configuration.

    Raises:
        ValueError: If it names no source or no task.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such configuration; `mvg data prepare` writes one beside the manifest")
    content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    data: Any = content.get("data") if isinstance(content, dict) else None
    for name in ("sources", "tasks"):
        if not isinstance(data, dict) or not data.get(name):
            raise ValueError(
                f"{path} names no {name}; recipes (`mvg data prepare --dataset`) do, else add `data.{name}` to the file"
            )
    return dict(data)
