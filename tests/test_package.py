import ast
import configparser
import re
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import benchmarks
import mvg
import tasks

ROOT = Path(__file__).parents[1]
ROOMS = ("mvg", "tasks", "benchmarks")
SETUP_LINES = [line.strip() for line in (ROOT / "setup.cfg").read_text().splitlines()]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def lines(section, name):
    return [line for line in SETUP[section][name].splitlines() if line and not line.startswith("#")]


EXTRAS = {
    Requirement(each).name.lower()
    for name in SETUP["options.extras_require"]
    for each in lines("options.extras_require", name)
}
REQUIRED = {
    Requirement(line).name.lower(): Requirement(line).specifier for line in lines("options", "install_requires")
}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


def test_the_three_packages_are_siblings():
    assert {Path(package.__file__).parents[1] for package in (mvg, tasks, benchmarks)} == {
        Path(mvg.__file__).parents[1]
    }


def test_every_module_can_be_imported_first():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for room in ROOMS for path in (ROOT / room).rglob("*.py")
    ]
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    for known in [known for known in sys.modules if known.startswith(('mvg', 'tasks', 'benchmarks'))]:\n"
        "        del sys.modules[known]\n"
        "    importlib.import_module(name)\n"
    )
    names = [name for name in names if not name.endswith("__main__")]
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.slow
def test_wheel_holds_exactly_three_packages(tmp_path):
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in filter(None, files.stdout.splitlines()):
        if (ROOT / name).is_file():
            (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "copy" / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path]
    subprocess.run([*build, tmp_path / "copy"], check=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == set(ROOMS)
    assert {f"{room}/py.typed" for room in ROOMS} <= set(names)


@pytest.mark.parametrize("room", ROOMS)
def test_every_import_is_declared(room):
    distributions = packages_distributions()
    for path in (ROOT / room).rglob("*.py"):
        for module in set(imported(path)) - set(sys.stdlib_module_names) - {*ROOMS, "__future__"}:
            names = {name.lower().replace("_", "-") for name in distributions.get(module, [module])}
            assert names & (REQUIRED.keys() | EXTRAS | {"lightning-fabric"}), f"{path} imports {module}"


@pytest.mark.parametrize("line", lines("options", "install_requires"))
def test_every_lower_bound_says_why(line):
    above = SETUP_LINES[SETUP_LINES.index(line) - 1]
    assert ">=" in line
    assert above.startswith("# ")


@pytest.mark.parametrize(
    ("name", "release"),
    [
        ("pytorch-lightning", "2.6.2"),
        ("pytorch-lightning", "2.6.3"),
        ("pytorch-lightning", "2.6.5"),
        ("torch", "2.9.1"),
    ],
)
def test_known_bad_releases_are_excluded(name, release):
    assert not REQUIRED[name].contains(release)


def test_every_entry_point_exists():
    scripts = lines("options.entry_points", "console_scripts") + lines("options.entry_points", "mvg.commands")
    for target in (line.partition("=")[2].strip() for line in scripts):
        module, _, name = target.partition(":")
        path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        assert re.search(rf"^(def {name}\(|{name}\b.*=)", path.read_text(), re.MULTILINE), target


def test_version_and_changelog_agree():
    text = (ROOT / "CHANGELOG.md").read_text()
    released = re.search(r"^## \[(\d[^\]]*)\]", text, re.MULTILINE)
    assert "## [Unreleased]" in text or released
    assert released is None or released[1] == mvg.__version__


def test_no_pickle_is_read_without_weights_only():
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                    "torch.load",
                    "pickle.load",
                    "pickle.loads",
                ):
                    assert any(word.arg == "weights_only" for word in node.keywords), f"{path}:{node.lineno}"
