"""The commands `mvg` and `lightning`.

`fit`, `validate` and `test` are LightningCLI's. Every other word is found in the entry-point group `mvg.commands`: a
function, whose parameters become options, or a dictionary of such functions, or a function of `args` alone, which
parses for itself. Nothing heavy is imported before the command is known.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import inspect
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from pathlib import Path
from typing import Any, NoReturn

import mvg
from mvg.configuration import TRUSTED, allow
from mvg.offline import offline

TRAINING = {
    "fit": "Trains a network; everything it writes is in runs/NAME.",
    "validate": "Evaluates a network on the validation split.",
    "test": "Evaluates a network on the test split.",
}
GROUP = "mvg.commands"
LIBRARIES = (
    "lightning_fabric",
    "monai",
    "pytorch_lightning",
    "timm",
    "torch.nn",
    "torch.optim",
    "torch.utils.data",
    "torch.utils.tensorboard",
    "torchio.transforms.augmentation",
    "torchmetrics",
    *(
        f"torchio.{name}"
        for name in (
            "Compose",
            "OneOf",
            "RandomAffine",
            "RandomAffineElasticDeformation",
            "RandomAnisotropy",
            "RandomBiasField",
            "RandomBlur",
            "RandomElasticDeformation",
            "RandomFlip",
            "RandomGamma",
            "RandomGhosting",
            "RandomMotion",
            "RandomNoise",
            "RandomSpike",
            "RandomSwap",
        )
    ),
)
"""Packages of others whose classes a configuration may name; what reads, writes or runs files is left out."""
CHECKERS = ("jsonargparse", "lightning_fabric", "pytorch_lightning", "torch.optim")
"""Packages of others whose ValueErrors are about options."""
WORKER = re.compile(r'Caught (\w+) in DataLoader worker.*File "([^"\n]*)", line.*?\n\1: (.*)', re.DOTALL)
"""What a process of a loader says of an error: its kind, the file where it was raised, its text."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs `mvg`.

    Args:
        args: The words after `mvg`, by default those of the process.

    Raises:
        SystemExit: With status 2 and one sentence on stderr, if the user can mend what is wrong.
    """
    options, words = split_options(sys.argv[1:] if args is None else args)
    command = words[0] if words else "--help"
    if command in ("-h", "--help"):
        sys.stdout.write(help_text())
        return
    if command == "--version":
        sys.stdout.write(f"mvg {mvg.__version__}\n")
        return
    logging.basicConfig(format="%(message)s")
    for package in TRUSTED:
        logging.getLogger(package).setLevel(logging.INFO)
    with plain_errors(f"mvg {command}", options), class_paths(options.allow_class_path), offline(options.offline):
        run(command, words[1:])


def split_options(args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Takes the options that every command has out of the words, wherever they stand."""
    parser = argparse.ArgumentParser("mvg", add_help=False, allow_abbrev=False)
    parser.add_argument("--allow-class-path", action="append", default=[], metavar="PREFIX")
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("--traceback", action="store_true", default=bool(os.environ.get("MVG_TRACEBACK")))
    return parser.parse_known_args(args)


def run(command: str, args: list[str]) -> None:
    """Runs one command with its words.

    Raises:
        ValueError: If there is no such command.
    """
    if command in TRAINING:
        from mvg.training import TrainingCLI

        TrainingCLI([command, *args])
        return
    found = commands()
    if command not in found:
        names = ", ".join([*TRAINING, *found])
        raise ValueError(f"there is no command {command!r}; choose one of {names}")
    component = found[command].load()
    if not isinstance(component, Mapping) and [*inspect.signature(component).parameters] == ["args"]:
        component(args)
        return
    from jsonargparse import auto_cli

    auto_cli(
        component, args=args, as_positional=False, parser_mode="omegaconf", prog=f"mvg {command}", exit_on_error=False
    )


def commands() -> dict[str, EntryPoint]:
    """Returns the commands that installed packages offer, by name."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def help_text() -> str:
    """Lists all commands, each with the first sentence of its documentation."""
    lines = TRAINING | {name: summary(entry) for name, entry in commands().items()}
    width = max(map(len, lines))
    return "\n".join(
        [
            "usage: mvg COMMAND [options]     (mvg COMMAND --help lists the options)",
            "",
            *(f"  {name:<{width}}  {text}" for name, text in lines.items()),
            "",
            "Options of every command:",
            "  --allow-class-path PREFIX  Let configurations name classes of this package, too; may be repeated.",
            "  --offline                  Refuse every connection to another machine.",
            "  --traceback                Show where an error comes from (or set MVG_TRACEBACK=1).",
            "",
        ]
    )


def summary(entry: EntryPoint) -> str:
    """Reads the first line of an entry point's docstring without importing its module."""
    top, *rest = entry.module.split(".")
    spec = importlib.util.find_spec(top)
    for folder in (spec and spec.submodule_search_locations) or []:
        stem = Path(folder, *rest)
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file():
                tree = ast.parse(path.read_text(encoding="utf-8"))
                named = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == entry.attr]
                return (ast.get_docstring(named[0] if named else tree) or "").partition("\n")[0]
    return ""


@contextmanager
def class_paths(prefixes: Sequence[str]) -> Iterator[None]:
    """Lets configurations name classes only of our packages, of the libraries we build on, and of `prefixes`.

    The check is made before anything is imported. It stays in force for the process, apart from `prefixes`.

    Raises:
        ValueError: If a prefix is no import path.
    """
    from jsonargparse import set_parsing_settings

    for prefix in prefixes:
        if not all(part.isidentifier() for part in prefix.split(".")):
            raise ValueError(
                f"--allow-class-path takes the import path of a package, such as mypackage, got {prefix!r}"
            )
    set_parsing_settings(
        import_path_denylist=["*", "monai.bundle"],
        import_path_allowlist=[*TRUSTED, *LIBRARIES, *prefixes],
        instantiate_subclass_spec_in_any=False,
    )
    try:
        with allow(prefixes):
            yield
    finally:
        extra = [prefix for prefix in prefixes if prefix not in (*TRUSTED, *LIBRARIES)]
        set_parsing_settings(import_path_denylist=extra)


@contextmanager
def plain_errors(command: str, options: argparse.Namespace) -> Iterator[None]:
    """Ends the process with one sentence where the user can mend what is wrong; other errors are bugs and pass."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as error:
        stopped = isinstance(error.__context__, KeyboardInterrupt)  # Lightning turns Ctrl-C into status 1
        sys.exit(130 if stopped else 143 if type(error).__name__ == "SIGTERMException" else error.code)
    except Exception as error:
        if options.traceback or not is_mendable(error, (*TRUSTED, *CHECKERS, *options.allow_class_path)):
            raise
        fail(f"{command}: {sentence(error)}")


def is_mendable(error: Exception, packages: Sequence[str]) -> bool:
    """Says whether an error is for the user: an option, a file, or a check that one of `packages` made."""
    kind = type(error)
    if isinstance(error, argparse.ArgumentError) or kind.__name__ in ("MisconfigurationException", "LostProcess"):
        return True
    if kind.__module__.startswith("omegaconf."):
        return True
    if isinstance(error, OSError) and error.filename is not None:
        return True
    module = origin(error)
    ours = any(module == package or module.startswith(f"{package}.") for package in packages)
    return ours and (isinstance(error, ValueError | OSError | FloatingPointError) or kind is ImportError)


def origin(error: Exception) -> str:
    """Returns the name of the module that raised an error, be it in a process of a loader."""
    if found := WORKER.match(str(error)):
        loaded = list(sys.modules.items())
        return next((name for name, module in loaded if getattr(module, "__file__", None) == found[2]), "")
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return str(trace.tb_frame.f_globals.get("__name__", "")) if trace else ""


def sentence(error: Exception) -> str:
    """Puts an error into one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}"
    text = error.message if isinstance(error, argparse.ArgumentError) else str(error)
    if found := WORKER.match(text):
        text = found[3]
    text = re.sub(r'^Parser key "(.*?)":', r"option `\1`:", " ".join(text.split()))
    text = re.sub(r"- Expected a path but \S+ either not accessible or invalid - ", "", text)
    text = re.sub(r"<class '(\w+\.)*(\w+)'>", r"\2", text).replace("NoneType", "null")
    text = re.sub(r"typing\.Literal\[(.*?)\]", lambda found: found[1].replace("'", ""), text)
    text = re.sub(r"Expected a (.*?, .*?)\. Got value: (.*)", r"expected one of \1, got '\2'", text)
    if denied := re.search(r"Importing '(.*?)' is not allowed", text):
        package = denied[1].partition(".")[0]
        return (
            f"class {denied[1]!r} is outside of the packages that a configuration may name; "
            f"if you trust it, allow its package with --allow-class-path {package}"
        )
    option = text.partition(" ")[2].partition(":")[0]
    if inner := re.findall(r"(Problem with given class_path .*?)(?= - |$)", text):
        return f"option {option}: {inner[-1]}"
    if union := re.search(r"Subtypes: (\[.*?\]) Errors: .*Given value: (.*)$", text):
        return f"option {option}: expected one of {union[1].strip('[]')}, got {union[2]!r}"
    return text


def fail(text: str) -> NoReturn:
    """Ends the process with a line on stderr and status 2."""
    sys.stderr.write(f"{text}\n")
    sys.exit(2)


def lightning(args: Sequence[str] | None = None) -> None:
    """Runs `lightning fit|validate|test|predict` as `mvg` does, and hands other words to Lightning's own command.

    Args:
        args: The words after `lightning`, by default those of the process.
    """
    words = list(sys.argv[1:] if args is None else args)
    if words and words[0] in (*TRAINING, "predict"):
        main(words)
        return
    other = platform_command()
    if other is None:
        said = f"`lightning {words[0]}`" if words else "`lightning` without a command"
        fail(
            f"lightning: {said} belongs to lightning-sdk, which is not installed; ours are fit, validate, test, predict"
        )
    sys.argv = ["lightning", *words]
    other()


def platform_command() -> Any:
    """Returns the `lightning` command of lightning-sdk, None where that is not installed."""
    try:
        scripts = distribution("lightning-sdk").entry_points.select(group="console_scripts", name="lightning")
    except PackageNotFoundError:
        return None
    return next((script.load() for script in scripts), None)
