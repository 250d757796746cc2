import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvg.configuration import Configurable, allow, find_class, from_config, to_config
from mvg.objective import Objective

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text().filter(lambda key: key != "class_path"), inner),
    max_leaves=10,
)


class Part(metaclass=Configurable):
    def __init__(self, first, second=2, *, inner=None, **rest):
        self.first = first


@given(plain)
def test_plain_values_survive_json(value):
    assert from_config(json.loads(json.dumps(to_config(value)))) == value


@given(st.dictionaries(st.sampled_from(["first", "second", "other"]), plain).filter(lambda made: "first" in made))
def test_object_is_rebuilt_with_the_same_arguments(arguments):
    config = to_config(Part(**arguments, inner=[Part(1), {"deep": Part(3)}]))
    again = from_config(json.loads(json.dumps(config)), trusted=[__name__])
    assert type(again) is type(again.init_args["inner"][1]["deep"]) is Part
    assert to_config(again) == config


def test_arguments_are_stored_with_their_defaults():
    assert Part(1, other=5).init_args == {"first": 1, "second": 2, "inner": None, "other": 5}
    assert to_config(from_config(to_config(Objective(beta=0.5)))) == to_config(Objective(beta=0.5))


@pytest.mark.parametrize("value", [Path("a"), object(), {"deep": [Path("a")]}])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(TypeError, match="cannot be stored"):
        to_config(value)


@pytest.mark.parametrize(
    "class_path",
    ["os.system", "subprocess.Popen", "builtins.eval", "mvgfake.Part", "mvg_other.Part", "eval", "", "torch.nn.Linear"],
)
def test_class_outside_of_trusted_packages_is_refused(class_path):
    with pytest.raises(ValueError, match="outside of the trusted packages"):
        from_config({"class_path": class_path, "init_args": {}})


@pytest.mark.parametrize("class_path", ["mvg.nothing.Here", "mvg.objective.Nothing", "mvg.cli.os.system"])
def test_class_that_does_not_exist_is_named(class_path):
    with pytest.raises(ValueError, match=class_path):
        find_class(class_path)


@pytest.mark.parametrize("class_path", ["mvg.objective.smooth_l1", "mvg.configuration.find_class", "mvg.doctor.Path"])
def test_what_is_not_configurable_is_refused(class_path):
    with pytest.raises(ValueError, match="no network, task"):
        find_class(class_path)


def test_allowed_package_is_trusted_only_inside_the_block():
    with allow([__name__]):
        assert find_class(f"{__name__}.Part") is Part
    with pytest.raises(ValueError, match=f"--allow-class-path {__name__}"):
        find_class(f"{__name__}.Part")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"class_path": "mvg.objective.Objective", "init_args": {"betta": 1}}, "betta"),
        ({"class_path": "mvg.data.Window", "init_args": None}, "low"),
        ({"class_path": "mvg.objective.Objective", "init_args": [1]}, "init_args"),
        ({"class_path": "mvg.objective.Objective", "init_args": {"beta": "much"}}, "mvg.objective.Objective"),
        ({"class_path": "mvg.task.Task"}, "abstract"),
        ({"class_path": 5}, "5"),
    ],
)
def test_wrong_arguments_are_named(entry, said):
    with pytest.raises(ValueError, match=said):
        from_config({"inner": [entry]})
