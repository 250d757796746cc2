"""What weights inherit: licences of data and of the weights that a training started from."""

import pytest
from test_generalist import Toy, network, run  # noqa: F401  (run is a fixture)

from mvg.data import ManifestSource, SyntheticAnatomy
from mvg.generalist import Generalist
from mvg.licences import inheritance, licence_lines
from mvg.saving import SaveWeights, facts_of
from mvg.weights import describe, save

CLOSED = {"licence": "CC BY-NC-SA 4.0", "terms": "share alike, non-commercial", "commercial": False}


def card(folder):
    return (folder / "README.md").read_text()


def test_source_states_its_terms():
    source = ManifestSource("a.csv", **CLOSED)
    assert facts_of(source).items() >= CLOSED.items()
    assert "commercial" not in facts_of(SyntheticAnatomy([16, 16]))


def test_trained_weights_inherit_the_licences_of_those_they_started_from(run, tmp_path):  # noqa: F811
    first = save(tmp_path / "first", network(), sources={"amos": CLOSED, "own": {"licence": "CC0"}})
    run(Generalist(network(), weights=str(first)), callbacks=[SaveWeights()])
    found = describe(tmp_path / "weights")
    assert found["inherited"] == {"amos": CLOSED, "own": {"licence": "CC0"}}
    assert list(found["sources"]) == list(Toy().sources)
    assert "amos: CC BY-NC-SA 4.0; share alike, non-commercial (by the weights" in card(tmp_path / "weights")
    assert "No commercial use, because of amos." in card(tmp_path / "weights")
    assert inheritance(found, None).keys() == {"amos", "own", *found["sources"]}


@pytest.mark.parametrize(
    ("start", "pretrained", "expected"),
    [
        (None, None, {}),
        (None, "/secret/mae.pth", {"mae.pth": {"licence": "unknown"}}),
        ({"origin": {"origin": "MAE", "licence": "CC BY-NC 4.0"}}, None, {"MAE": {"licence": "CC BY-NC 4.0"}}),
    ],
)
def test_licence_of_weights_made_elsewhere_is_kept_without_a_path(start, pretrained, expected):
    assert inheritance(start, pretrained) == expected


def test_commercial_use_is_stated_only_if_all_allow_it():
    free, open_question = {"licence": "CC BY 4.0", "commercial": True}, {"licence": "terms of its page"}
    assert licence_lines({"sources": {"a": free}})[-1] == "All of them allow commercial use."
    for more in (
        {"sources": {"a": free, "b": open_question}},
        {"sources": {"a": free}, "inherited": {"b": open_question}},
    ):
        assert "commercial" not in "\n".join(licence_lines(more))
    assert licence_lines({}) == []
