"""No network while a block runs: every connection of Python code to another machine is refused before it is made."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_LOCAL = ("", "localhost", "127.", "::1", "0.0.0.0")
_state = {"refusing": False, "watching": False}


def _watch(event: str, arguments: tuple[Any, ...], state: Mapping[str, bool] = _state) -> None:
    """Refuses connections and look-ups of names; Python calls it before each, also when modules are gone at its end."""
    if not state["refusing"] or event not in ("socket.connect", "socket.getaddrinfo"):
        return
    asked = arguments[1] if event == "socket.connect" else (arguments[0],)
    host = asked[0] if isinstance(asked, tuple) else ""  # paths name sockets of this machine
    name = host.decode() if isinstance(host, bytes) else str(host or "")
    if not any(name == local or (local.endswith(".") and name.startswith(local)) for local in _LOCAL):
        raise ConnectionRefusedError(f"a connection to {name} was refused, as --offline allows none; leave it out")


@contextmanager
def offline(wanted: bool = True) -> Iterator[None]:
    """Refuses connections to other machines, in this process and in those that it forks.

    Args:
        wanted: False for no change.
    """
    if not wanted:
        yield
        return
    if not _state["watching"]:
        sys.addaudithook(_watch)
        _state["watching"] = True
    before, variable = dict(_state), os.environ.get("HF_HUB_OFFLINE")
    _state["refusing"] = True
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        _state["refusing"] = before["refusing"]
        if variable is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = variable
