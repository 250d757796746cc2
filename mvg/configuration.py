"""Objects to plain `class_path` / `init_args` dictionaries and back."""

from __future__ import annotations

import importlib
import inspect
from abc import ABCMeta
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

TRUSTED = ("mvg", "tasks", "benchmarks")
"""Packages whose classes a configuration or a trained folder may name without being asked."""

_allowed: ContextVar[tuple[str, ...]] = ContextVar("allowed", default=())


@contextmanager
def allow(packages: Sequence[str]) -> Iterator[None]:
    """Trusts further packages while the block runs: what `--allow-class-path` does."""
    token = _allowed.set((*_allowed.get(), *packages))
    try:
        yield
    finally:
        _allowed.reset(token)


class Configurable(ABCMeta):
    """Metaclass that remembers the arguments an object was made with, as `object.init_args`."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Makes the object, then stores its arguments with the defaults filled in."""
        made = super().__call__(*args, **kwargs)
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]
        bound = signature.bind(made, *args, **kwargs)
        bound.apply_defaults()
        values = dict(list(bound.arguments.items())[1:])
        for name, parameter in signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                values.update(values.pop(name, {}))
        object.__setattr__(made, "init_args", values)
        return made


def to_config(value: Any) -> Any:
    """Turns configurable objects, inside lists and dictionaries too, into plain JSON values.

    Raises:
        TypeError: If a value is neither plain nor configurable; paths are refused, as they name this machine.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(type(value), Configurable):
        path = f"{type(value).__module__}.{type(value).__qualname__}"
        arguments = {name: to_config(argument) for name, argument in value.init_args.items()}
        return {"class_path": path, "init_args": arguments}
    if isinstance(value, Mapping):
        return {str(name): to_config(entry) for name, entry in value.items()}
    if isinstance(value, Sequence):
        return [to_config(entry) for entry in value]
    kind = "a path" if isinstance(value, Path) else type(value).__name__
    raise TypeError(f"{kind} cannot be stored in a configuration: {value!r}")


def from_config(value: Any, trusted: Sequence[str] = TRUSTED) -> Any:
    """Builds what `to_config` described.

    Args:
        value: A plain value; dictionaries with the key `class_path` become objects.
        trusted: Packages whose classes may be named.

    Raises:
        ValueError: If a class lies outside of the trusted packages, or does not exist, or is not configurable, or does
            not take its arguments.
    """
    if isinstance(value, Mapping):
        if "class_path" in value:
            path, arguments = str(value["class_path"]), value.get("init_args") or {}
            made = find_class(path, trusted)
            try:
                return made(**from_config(arguments, trusted))
            except TypeError as error:
                raise ValueError(f"class {path!r} does not take these `init_args`: {error}; correct them") from error
        return {name: from_config(entry, trusted) for name, entry in value.items()}
    if isinstance(value, list):
        return [from_config(entry, trusted) for entry in value]
    return value


def find_class(class_path: str, trusted: Sequence[str] = TRUSTED) -> Any:
    """Imports a configurable class by its path, only from trusted packages and those that `allow` adds.

    Raises:
        ValueError: If the package is not trusted or the class does not exist.
    """
    found = find_object(class_path, trusted)
    if not isinstance(found, Configurable):
        raise ValueError(f"class {class_path!r} is no network, task, source or part of one")
    return found


def find_object(class_path: str, trusted: Sequence[str] = TRUSTED) -> Any:
    """Imports any class by its path, only from trusted packages and those that `allow` adds.

    Raises:
        ValueError: If the package is not trusted or the class does not exist.
    """
    module, _, name = class_path.rpartition(".")
    trusted = (*trusted, *_allowed.get())
    if not any(module == package or module.startswith(package + ".") for package in trusted):
        raise ValueError(
            f"class {class_path!r} is outside of the trusted packages ({', '.join(trusted)}); "
            f"allow its package with --allow-class-path {class_path.split('.')[0]}"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"class {class_path!r} does not exist: {error}") from error
    return found
