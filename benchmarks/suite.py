"""Suites: which cases of which data sets are asked what, as YAML with a list of cases beside it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from benchmarks.protocol import VERSION
from benchmarks.records import UNSEEN
from mvg.configuration import from_config
from mvg.data.datasets import DATASETS
from mvg.data.datasets.configuration import source_arguments
from mvg.data.file_source import FileSource
from mvg.data.location import fingerprint
from mvg.files import write_atomically
from mvg.task import Task
from tasks import Detection, Segmentation, Synthesis

CASE_COLUMNS = ("dataset", "case", "patient", "split", "sha256")
_PLACES = ("root", "manifest", "cache")


@dataclass(frozen=True)
class Case:
    """A case of the list that belongs to a suite.

    Attributes:
        dataset: Name of its data set in the suite.
        case: Its name.
        patient: Its patient.
        split: "train", from which contexts are drawn, or "test".
        sha256: Hash of the hashes of all its files, by role, hexadecimal.
    """

    dataset: str
    case: str
    patient: str
    split: str
    sha256: str


@dataclass(frozen=True)
class Question:
    """What is asked of the cases of a data set.

    Attributes:
        dataset: Name of the data set in the suite.
        task: Name of the kind of task, such as "segmentation".
        variant: Kind of degradation, direction of synthesis, role of the image; or "".
        label: Class index of the structure, None for image tasks.
        structure: Name of the structure, "" for image tasks.
        asked: The task itself, narrowed to the variant.
        slices: How volumes are cut for networks in 2D: "axial", "coronal", "sagittal", or "auto".
    """

    dataset: str
    task: str
    variant: str
    label: int | None
    structure: str
    asked: Task
    slices: str = "auto"

    @property
    def inputs(self) -> int:
        """Number of images that are shown at once: of a synthesis from several contrasts more than one."""
        return len(self.asked.sources or ()) if isinstance(self.asked, Synthesis) and self.asked.joint else 1

    @property
    def name(self) -> str:
        """Name of the question, which is also that of a folder of answers; its parts keep letters, digits and dots."""
        return name_of(self.dataset, self.task, self.variant, self.structure)


def name_of(dataset: str, task: str, variant: str, structure: str) -> str:
    """Names a question; see `Question.name`."""
    parts = (dataset, task, variant, structure)
    return "/".join(re.sub(r"[^\w.+-]+", "_", part) for part in parts if part)


@dataclass(frozen=True)
class SuiteSet:
    """A data set of a suite.

    Attributes:
        name: Its name in the suite.
        source: Where its files lie, and how they are split into patients.
        ask: Name of a task of the suite to arguments that replace those of all its variants.
        structures: Class indices that are asked for; all that have names by default.
        unseen: Words of `UNSEEN` that hold for all of its cases, or for those whose names match a pattern.
        tolerance: Of the normalised surface distance, in mm, or in pixels for pictures.
    """

    name: str
    source: FileSource
    ask: Mapping[str, Mapping[str, Any]]
    structures: Sequence[int] | None = None
    unseen: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tolerance: float = 2.0

    def unseen_words(self, case: str) -> tuple[str, ...]:
        """Returns the words that hold for a case."""
        return tuple(
            word for word in UNSEEN if any(fnmatchcase(case, pattern) for pattern in self.unseen.get(word, ()))
        )


@dataclass(frozen=True)
class Suite:
    """What is asked, of what, and how often.

    Attributes:
        title: Its name.
        sets: Data sets by name.
        tasks: Name of a task to its `class_path` and `variants`: name of a variant to `init_args`.
        shots: Numbers of context cases.
        draws: Number of draws of the context.
        seed: Seed of contexts and degradations.
        path: The list of cases.
        content: All that the file says, without places on the disk.
    """

    title: str
    sets: Mapping[str, SuiteSet]
    tasks: Mapping[str, Mapping[str, Any]]
    shots: tuple[int, ...]
    draws: int
    seed: int
    path: Path
    content: Mapping[str, Any]

    @cached_property
    def cases(self) -> dict[str, list[Case]]:
        """The list of cases, by data set.

        Raises:
            ValueError: If there is none, or it is wrong.
        """
        return read_cases(self.path, tuple(self.sets))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of what is asked and of the list of cases, hexadecimal; places on the disk do not count."""
        rows = [[*vars(case).values()] for cases in self.cases.values() for case in cases]
        return _digest([VERSION, self.content, sorted(rows)])

    @property
    def name(self) -> str:
        """Name in records: the title, and the beginning of the hash."""
        return f"{self.title}@{self.hash[:12]}"

    def questions(self, names: Sequence[str] | None = None) -> Iterator[Question]:
        """Lists what is asked of some data sets, or of all, in a fixed order.

        Raises:
            ValueError: If a data set is unknown, or names no structure where one is asked for.
        """
        if unknown := set(names or ()) - set(self.sets):
            raise ValueError(f"the suite has no data set {', '.join(sorted(unknown))}; it has {', '.join(self.sets)}")
        for name, held in self.sets.items():
            if not names or name in names:
                for task, changes in held.ask.items():
                    yield from self._variants(held, task, changes)

    def _variants(self, held: SuiteSet, task: str, changes: Mapping[str, Any]) -> Iterator[Question]:
        entry = self.tasks[task]
        for variant, arguments in entry["variants"].items():
            made = from_config({"class_path": entry["class_path"], "init_args": {**arguments, **changes}})
            kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(made).__name__).lower()
            slices = held.source.slices or "auto"
            if not isinstance(made, Segmentation | Detection):
                yield Question(held.name, kind, variant, None, "", made, slices)
                continue
            known = held.source.class_names.get(made.labels, {})
            chosen = held.structures or sorted(set(known) - {0})
            if not chosen:
                raise ValueError(f"data set {held.name!r} names no class of {made.labels!r}; list its `structures`")
            for label in chosen:
                yield Question(held.name, kind, variant, label, known.get(label, f"class {label}"), made, slices)


def load_suite(path: str | Path, cases: Path | None = None) -> Suite:
    """Reads a suite.

    Args:
        path: A YAML file such as `configs/suites/open_small.yaml`.
        cases: The list of cases, instead of the one that the suite names.

    Raises:
        ValueError: If it cannot be read, was written for another version of the protocol, or names what does not exist.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such suite; the shipped ones are in configs/suites")
    content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    try:
        if str(content["protocol"]) != VERSION:
            raise ValueError(f"{path}: it is for protocol {content['protocol']}, this version scores by {VERSION}")
        entries = {name: _resolved(entry, path.parent) for name, entry in content["datasets"].items()}
        sets = {name: _suite_set(name, entry) for name, entry in entries.items()}
        for held in sets.values():
            if unknown := set(held.ask) - set(content["tasks"]):
                raise ValueError(f"{path}: {held.name!r} asks {sorted(unknown)}, which are not among its `tasks`")
        suite = Suite(
            content["name"],
            sets,
            content["tasks"],
            tuple(content["shots"]),
            int(content["draws"]),
            int(content["seed"]),
            cases or path.parent / content["cases"],
            _plain({**content, "datasets": entries, "cases": ""}),
        )
    except KeyError as error:
        raise ValueError(f"{path}: the entry {error} is missing; see configs/suites for what a suite holds") from error
    _check_names(suite)
    return suite


def _check_names(suite: Suite) -> None:
    """Checks that every question has a name of its own: files and records are found by it.

    Raises:
        ValueError: If two share one.
    """
    found: dict[str, Question] = {}
    for question in suite.questions():
        other = found.setdefault(question.name, question)
        if other is not question:
            words = [each.structure or each.variant for each in (other, question)]
            raise ValueError(
                f"{words[0]!r} and {words[1]!r} of {question.dataset!r} are both called {question.name!r} in files; "
                "give them names that differ in letters or digits"
            )


def _resolved(entry: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Replaces `recipe` and `config` by the source that they describe."""
    entry = dict(entry)
    if recipe := entry.pop("recipe", None):
        if recipe not in DATASETS:
            raise ValueError(f"there is no recipe {recipe!r}; `mvg data datasets` lists all")
        public = DATASETS[recipe]
        arguments = {"manifest": f"{entry.pop('manifests')}/{recipe}.csv", "name": recipe, **source_arguments(public)}
        arguments["class_names"] = {role: dict(names) for role, names in public.class_names.items()}
        entry["source"] = {"class_path": "mvg.data.ManifestSource", "init_args": arguments}
    if config := entry.pop("config", None):
        shared: Any = OmegaConf.to_container(OmegaConf.load(folder / config), resolve=True)
        entry["source"] = shared["sources"][entry["source"]]
    return entry


def _suite_set(name: str, entry: Mapping[str, Any]) -> SuiteSet:
    source = from_config(entry["source"])
    if not isinstance(source, FileSource):
        raise ValueError(f"data set {name!r} must be one of files, got {type(source).__name__}")
    unseen = entry.get("unseen") or {}
    words = {word: ["*"] for word in unseen} if isinstance(unseen, list) else unseen
    if unknown := set(words) - set(UNSEEN):
        raise ValueError(f"`unseen` of {name!r} knows {', '.join(UNSEEN)}, got {', '.join(sorted(unknown))}")
    ask = {task: changes or {} for task, changes in entry["ask"].items()}
    return SuiteSet(name, source, ask, entry.get("structures"), words, float(entry.get("tolerance", 2.0)))


def _plain(value: Any) -> Any:
    """Drops places on the disk, which differ between machines."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items() if name not in _PLACES}
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def case_hash(source: FileSource, case: str) -> str:
    """Hashes the files of a case, whatever they are called, hexadecimal."""
    return _digest(sorted(_prints(source, case).items()))


def _prints(source: FileSource, case: str) -> dict[str, str]:
    """Hashes each file of a case, by role."""
    return {role: fingerprint(place) for role, place in files_of(source)[case].items()}


def files_of(source: FileSource) -> dict[str, Any]:
    """Lists the files of a source, once."""
    found: dict[str, Any] | None = source.__dict__.get("_suite_files")
    if found is None:
        found = source.__dict__["_suite_files"] = source.files()
    return found


def list_cases(suite: Suite) -> list[Case]:
    """Lists and hashes the training and test cases of all data sets; those of validation are left out."""
    made, images = list[Case](), dict[str, Case]()
    for name, held in suite.sets.items():
        groups, splits = held.source.assign(sorted(files_of(held.source)))
        for split in ("train", "test"):
            for case in sorted(splits[split]):
                prints = _prints(held.source, case)
                made.append(Case(name, case, groups.get(case, case), split, _digest(sorted(prints.items()))))
                for role in sorted(set(prints) - set(held.source.kinds()[0])):
                    _check_split(images, prints[role], made[-1], f"one file of {role!r}")
    check_cases(made)
    return made


def check_cases(cases: Sequence[Case]) -> None:
    """Checks that no patient and no file is both for training and for tests.

    Raises:
        ValueError: If one is; the sentence names both cases.
    """
    patients, files = dict[str, Case](), dict[str, Case]()
    for case in cases:
        _check_split(patients, f"{case.dataset}/{case.patient}", case, f"patient {case.patient!r}")
        _check_split(files, case.sha256, case, "the same files")


def _check_split(found: dict[str, Case], key: str, case: Case, said: str) -> None:
    """Notes what a case holds; raises ValueError if a case of another split holds it, too."""
    other = found.setdefault(key, case)
    if other.split != case.split:
        raise ValueError(
            f"{case.dataset}: {said} would be shown and asked, as cases {other.case!r} ({other.split}) and "
            f"{case.case!r} ({case.split}); keep one of them"
        )


def write_cases(path: Path, cases: Sequence[Case]) -> None:
    """Writes a list of cases, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([CASE_COLUMNS, *(vars(case).values() for case in cases)])
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def _case(row: Mapping[str | None, str | None], place: str) -> Case:
    """Checks a row of a list of cases."""
    if None in row or not all(row.values()):
        raise ValueError(f"{place}: a case needs {', '.join(CASE_COLUMNS)} and nothing else; write the list again")
    case = Case(**cast(dict[str, str], row))
    if case.split not in ("train", "test"):
        raise ValueError(f"{place}: the split must be train or test, got {case.split!r}; write the list again")
    return case


def read_cases(path: Path, names: Sequence[str]) -> dict[str, list[Case]]:
    """Reads and checks a list of cases, by data set.

    Raises:
        ValueError: If there is none, a column is missing, or it does not hold the data sets of its suite.
    """
    if not path.is_file():
        raise ValueError(f"{path}: the suite has no list of cases yet; `mvg benchmark cases --suite SUITE` writes it")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != CASE_COLUMNS:
            raise ValueError(f"{path}: a list of cases has the columns {list(CASE_COLUMNS)}, got {reader.fieldnames}")
        cases = [_case(row, f"{path}: row {number}") for number, row in enumerate(reader, 2)]
    check_cases(cases)
    found = {name: [case for case in cases if case.dataset == name] for name in names}
    if missing := [name for name, held in found.items() if not held]:
        raise ValueError(f"{path}: it holds no case of {', '.join(missing)}; write it again with `mvg benchmark cases`")
    return found
