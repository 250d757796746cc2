import ast
import re
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in (ROOT / "docs/promises.md").read_text().splitlines()
    if line.startswith("| R")
]
NAMED = sorted({name for row in ROWS for name in re.findall(r"`(test_\w+\.py::\w+)`", row[2])})


def test_every_promise_is_listed_once():
    assert [row[0] for row in ROWS] == [f"R{number}" for number in range(1, 33)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_promise_has_a_test_or_is_none(row):
    assert bool(row[2]) or row[1].startswith("Not promised")


@pytest.mark.parametrize("name", NAMED)
def test_named_test_exists(name):
    file, test = name.split("::")
    defined = {node.name for node in ast.walk(ast.parse((ROOT / "tests" / file).read_text())) if hasattr(node, "name")}
    assert test in defined


def test_oldest_requirements_are_the_lower_bounds():
    shown = subprocess.run(["bash", str(ROOT / ".ci/oldest"), "--list"], capture_output=True, text=True, check=True)
    oldest = {Requirement(line).name: Requirement(line) for line in shown.stdout.split()}
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = [line for line in setup["options"]["install_requires"].splitlines() if line and not line.startswith("#")]
    assert oldest.keys() == {Requirement(line).name for line in lines}
    for line in lines:
        wanted = Requirement(line)
        (version,) = [each.version for each in oldest[wanted.name].specifier]
        assert wanted.specifier.contains(version.rstrip(".*"))
