"""A search's space in YAML: its meaning, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from wgan_cli.commands.search import _check as check
from wgan_cli.config import configs_folder
from wgan_cli.errors import ConfigError
from wgan_cli.search.space import (
    Choices,
    Range,
    as_overrides,
    parse_search,
    read_search,
    with_overrides,
)

SHIPPED = sorted((configs_folder() / "search").glob("*.yaml"))
HERE = Path("mine.yaml")


def of(space: dict[str, Any], **more: Any) -> Any:
    return parse_search({"space": space, **more}, HERE)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_space_can_be_searched(path: Path) -> None:
    check(read_search(path))


def test_integer_ends_give_integers() -> None:
    search = of({"a": {"low": 1, "high": 5}, "b": {"low": 1.0, "high": 5, "log": True}})
    integers, reals = search.settings.values()
    assert isinstance(integers, Range)
    assert integers.extremes() == [1, 5]
    assert [type(end) for end in integers.extremes()] == [int, int]
    assert isinstance(reals, Range)
    assert [type(end) for end in reals.extremes()] == [float, float]


def test_choices_become_overrides() -> None:
    items = [None, True, 0.5, 3, "hinge", [0.0, 0.9]]
    (entry,) = of({"a": {"choices": items}}).settings.values()
    assert isinstance(entry, Choices)
    words = [as_overrides({"a": value})[0] for value in entry.values]
    assert words == ["a=null", "a=true", "a=0.5", "a=3", "a=hinge", "a=[0.0,0.9]"]


def test_an_override_keeps_a_number_at_full_precision() -> None:
    value = 0.1 + 0.2
    (text,) = as_overrides({"clip": value})
    assert float(text.partition("=")[2]) == value


def test_corners_include_both_ends_and_every_choice() -> None:
    space = {
        "clip": {"low": 0.01, "high": 0.1},
        "n_critic": {"low": 1, "high": 3},
        "loss": {"choices": ["wasserstein", "hinge", "gan"]},
    }
    corners = list(of(space, words=["steps=2"]).corners())
    assert corners[0] == ["steps=2", "clip=0.01", "n_critic=1", "loss=wasserstein"]
    assert corners[1] == ["steps=2", "clip=0.1", "n_critic=3", "loss=hinge"]
    assert {word for corner in corners for word in corner} >= {"loss=gan"}


def test_an_override_replaces_one_of_the_space_and_fixes_a_setting() -> None:
    space = {"clip": {"low": 0.01, "high": 0.1}, "n_critic": {"low": 1, "high": 3}}
    search = with_overrides(of(space, words=["steps=2", "seed=1"]), ["steps=5", "clip=0.02"])
    assert search.words == ["seed=1", "steps=5", "clip=0.02"]
    assert list(search.settings) == ["n_critic"]
    with pytest.raises(ConfigError, match="none is left"):
        with_overrides(search, ["n_critic=2"])


CLIP = {"clip": {"low": 0.01, "high": 0.1}}


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"space": {"clip": {"low": 0.1, "high": 0.01}}}, "0.1 is not below 0.01"),
        ({"space": {"clip": {"low": 0.1, "high": 0.1}}}, "0.1 is not below 0.1"),
        (
            {"space": {"clip": {"low": 0, "high": 1.0, "log": True}}},
            "low must be above 0 on a log scale",
        ),
        ({"space": {"clip": {"low": 0.1}}}, "space.clip.high: a value is needed"),
        ({"space": {"clip": {"low": "a", "high": 1}}}, "space.clip.low must be a number"),
        ({"space": {"clip": {"low": 0.1, "hihg": 1}}}, "Did you mean space.clip.high"),
        ({"space": {"clip": {"low": 0.1, "high": 1.0, "step": 0.0}}}, "step must be above 0"),
        ({"space": {"clip": {"low": 0.1, "high": 1.0, "step": 0.4}}}, "no whole number of steps"),
        ({"space": {"a": {"low": 1, "high": 9, "step": 2, "log": True}}}, "cannot go together"),
        ({"space": {"a": {"low": 1, "high": 9, "integer": True}}}, "a.integer is no setting"),
        ({"space": {"clip": {"low": 0.1, "high": float("inf")}}}, "high must be"),
        ({"space": {"clip": 0.1}}, "space.clip must be {low"),
        ({"space": {"clip": {"choices": [0.1]}}}, "at least two values"),
        ({"space": {"clip": {"choices": [0.1, 0.1]}}}, "contains a value twice"),
        ({"space": {"clip": {"choices": [{}, 1]}}}, "cannot be the value of a setting"),
        (
            {"space": {"clip": {"choices": [1, 2], "log": True}}},
            "clip.log cannot be combined",
        ),
        ({"space": {}}, "space: is empty"),
        ({"space": CLIP, "trails": 3}, "Did you mean trials"),
        ({"space": CLIP, "trials": 0}, "trials must be at least 1"),
        ({"space": CLIP, "direction": "down"}, "direction must be one of minimize, maximize"),
        ({"space": CLIP, "sampler": {"name": "grid"}}, "sampler.name must be one of tpe, random"),
        ({"space": CLIP, "pruner": "none"}, "pruner holds settings"),
        ({"space": CLIP, "words": "steps=2"}, "words must be a list"),
        ({"metric": "a"}, "a search needs space:"),
        (["clip"], "a search needs space:"),
    ],
)
def test_a_wrong_space_is_refused_in_one_sentence(node: Any, said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_search(node, HERE)
    assert str(refusal.value).startswith("mine.yaml: ")
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("search", "said"),
    [
        (of({"clipp": {"low": 0.01, "high": 0.1}}), "Did you mean clip"),
        (of({"n_critic": {"low": 0, "high": 5}}), "n_critic must be at least 1"),
        (of({"n_critic": {"low": 0.5, "high": 5.0}}), "n_critic must be a whole number"),
        (of({"ema": {"low": 0.5, "high": 1.5}}), "ema must be"),
        (of({"loss": {"choices": ["hinge", "hinged"]}}), "loss=hinged: there is no such option"),
        (of(CLIP, words=["constraint=none"]), "clip"),
        (of(CLIP, words=["steps=2,3"]), "one value for all trials"),
        (of(CLIP, words=["resume=auto"]), "wgan-search chooses this itself"),
        (of(CLIP, words=["metrics=[wasserstein/sliced]"]), "wasserstein/exact is not among"),
    ],
)
def test_a_space_with_invalid_trials_is_refused(search: Any, said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        check(search)
    assert said in str(refusal.value)


def test_a_warning_where_nothing_can_be_pruned(capsys: pytest.CaptureFixture[str]) -> None:
    check(of(CLIP, words=["steps=50"]))
    assert "no trial can be pruned" in capsys.readouterr().err
    check(of(CLIP, words=["steps=50"], pruner={"name": "none"}))
    assert capsys.readouterr().err == ""


def test_invalid_yaml_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("space: [")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_search(path)


def test_a_written_search_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    node = yaml.safe_load(SHIPPED[0].read_text())
    path.write_text(yaml.safe_dump(node))
    assert read_search(path) == read_search(SHIPPED[0])
