"""What weights inherit: the licences of the data they were trained on, and those of the weights they started from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvg.data.exposure import LISTS, NAME, joined

TERMS = ("licence", "terms", "commercial")
"""Facts of a source that weights inherit."""


def inheritance(start: Mapping[str, Any] | None, pretrained: str | None) -> dict[str, dict[str, Any]]:
    """Collects what weights inherit from those that a training starts from.

    Args:
        start: Description of the starting weights, as `mvg.weights.describe` returns it; None if there are none.
        pretrained: Name of a plain transformer or file of its weights, whose licence is not known; no path is kept.

    Returns:
        Name of a source to its licence, terms, whether they allow commercial use, and what of it was shown, as far as
        they are known.
    """
    found: dict[str, dict[str, Any]] = {}
    if start is not None:
        for name, facts in joined(start.get("inherited", {}), start.get("sources", {})).items():
            found[name] = {key: facts[key] for key in (*TERMS, NAME, *LISTS) if key in facts}
        if origin := start.get("origin"):
            known = {key: origin[key] for key in TERMS if key in origin}
            found[str(origin.get("origin", "starting weights"))] = {"licence": "unknown", **known}
    if pretrained is not None:
        found[Path(pretrained).name] = {"licence": "unknown"}
    return found


def licence_lines(config: Mapping[str, Any]) -> list[str]:
    """Says in Markdown what the licences of a saved network are, and what stands against commercial use.

    Args:
        config: Description of the network: its `sources`, and what is `inherited`.
    """
    sources, older = config.get("sources", {}), config.get("inherited", {})
    lines = [f"- {name}: {_words(facts)}" for name, facts in sources.items()]
    lines += [f"- {name}: {_words(facts)} (by the weights it started from)" for name, facts in older.items()]
    everything = {**older, **sources}
    against = [name for name, facts in everything.items() if facts.get("commercial") is False]
    unclear = [name for name, facts in everything.items() if facts.get("commercial") is None]
    if against:
        lines += ["", f"No commercial use, because of {', '.join(against)}."]
    elif everything and not unclear:
        lines += ["", "All of them allow commercial use."]
    return lines


def _words(facts: Mapping[str, Any]) -> str:
    licence = str(facts.get("licence", "unknown"))
    return f"{licence}; {facts['terms']}" if facts.get("terms") else licence
