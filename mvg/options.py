"""Options of commands that hand what a user types to one function."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from jsonargparse import ActionYesNo, ArgumentParser


def make_parser(
    command: Callable[..., None], function: Callable[..., None], flags: Mapping[str, str], skip: Collection[str] = ()
) -> ArgumentParser:
    """Makes the parser of a command.

    Args:
        command: The command, whose name and documentation the help shows.
        function: What it calls; each of its arguments becomes an option.
        flags: Arguments that are on or off, as in `--overwrite` and `--no_overwrite`, to what the help says of them.
        skip: Further arguments that the command adds by itself.

    Returns:
        The parser.
    """
    prog = f"mvg {command.__name__}"
    parser = ArgumentParser(prog=prog, description=command.__doc__, exit_on_error=False)
    parser.add_function_arguments(function, skip={*flags, *skip})
    for name, text in flags.items():
        parser.add_argument(f"--{name}", action=ActionYesNo, default=False, help=text)
    return parser


def parse(parser: ArgumentParser, args: Sequence[str]) -> dict[str, Any]:
    """Reads the words after a command; names of options may be written with dashes, too."""
    words = [re.sub(r"^--[\w-]+", lambda name: "--" + name[0][2:].replace("-", "_"), word) for word in args]
    return dict(parser.parse_args(words).as_dict())
