"""Packages whose public names are imported when they are first used, so that a start costs what it needs.

A package lists its names once, as imports that type checkers and editors read and that never run:

    if TYPE_CHECKING:
        from mvg.episode import Pair as Pair
    else:
        __all__, __getattr__, __dir__ = lazy(__name__)
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from importlib.abc import InspectLoader
from typing import Any


def lazy(package: str) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Makes `__all__`, `__getattr__` and `__dir__` of a package from what it imports for type checkers alone.

    Args:
        package: Its name, `__name__`.

    Returns:
        The public names, sorted, and both functions.
    """
    space = vars(sys.modules[package])
    modules = promised(package)

    def find(name: str) -> Any:
        """Imports a public name from the module that holds it."""
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it offers {', '.join(modules)}")
        space[name] = value = getattr(importlib.import_module(modules[name]), name)
        return value

    def names() -> list[str]:
        """Lists the public names, imported or not."""
        return sorted({*space, *modules})

    return list(modules), find, names


def promised(package: str) -> dict[str, str]:
    """Reads which names a package imports under `if TYPE_CHECKING:`, and from where.

    Args:
        package: Its name; it may still be in the middle of its import.

    Returns:
        Each name to its module, sorted by name.

    Raises:
        ImportError: If the package is installed without its source.
    """
    spec = sys.modules[package].__spec__
    source = spec.loader.get_source(package) if spec and isinstance(spec.loader, InspectLoader) else None
    if source is None:
        raise ImportError(f"{package} finds its public names in its source, which is missing; install it with sources")
    blocks = [part.body for part in ast.parse(source).body if isinstance(part, ast.If) and _is_for_checkers(part.test)]
    imports = [line for block in blocks for line in block if isinstance(line, ast.ImportFrom)]
    found = {alias.name: line.module or "" for line in imports for alias in line.names}
    return dict(sorted(found.items()))


def _is_for_checkers(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"
