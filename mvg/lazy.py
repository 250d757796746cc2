"""Packages whose public names are imported when they are first used, so that a start costs what it needs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Makes the `__getattr__` and the `__dir__` of a package.

    Args:
        package: Its name, `__name__`.
        modules: Each public name to the module that holds it.

    Returns:
        Both functions.
    """
    space = vars(sys.modules[package])

    def find(name: str) -> Any:
        """Imports a public name from the module that holds it."""
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it offers {', '.join(modules)}")
        space[name] = value = getattr(importlib.import_module(modules[name]), name)
        return value

    def names() -> list[str]:
        """Lists the public names, imported or not."""
        return sorted({*space, *modules})

    return find, names
