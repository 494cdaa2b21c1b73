"""The one reader of YAML and JSON: as OmegaConf reads, but bounded, and never blocked by a pipe."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from wgan_cli.config import configs_folder
from wgan_cli.errors import CheckpointError
from wgan_cli.guard import inside
from wgan_cli.untrusted_files import parse_json, parse_yaml, read_text, read_yaml


@pytest.mark.parametrize("path", sorted(configs_folder().rglob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_configs_are_read_as_by_omegaconf(path: Path):
    assert (read_yaml(path) or {}) == OmegaConf.to_container(OmegaConf.load(path))


VALUES = (
    "1e-4 1e5 -1E+5 .5 1. +.inf .nan 0x1F 010 1_000 1:30 1:30.5 2020-01-01 yes No ~ null 1.5.3 1e"
)


@pytest.mark.parametrize("value", [*VALUES.split(), "'1'", "[1, {b: 2}]", "{1: 2, true: 3}", ""])
def test_values_are_read_as_by_omegaconf(value: str):
    text = f"a: {value}"
    expected = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
    assert repr(parse_yaml(text)) == repr(expected)


def test_an_alias_is_its_value():
    text = "a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}"
    assert parse_yaml(text) == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}


def aliases(times: int) -> str:
    """Return YAML for 10 ** times values."""
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, times)]
    return "\n".join([f"a0: &a0 [{', '.join('x' * 10)}]", *lines])


def indented(depth: int) -> str:
    return "".join(f"{' ' * level}a:\n" for level in range(depth))


@pytest.mark.parametrize(
    ("text", "reason"),
    {
        "many aliases": (aliases(12), "too many values"),
        "many values": (f"[{'a,' * 100_001}]", "too many values"),
        "itself": ("a: &a [*a]", "names nothing before it"),
        "itself, merged": ("a: &a {<<: *a}", "names nothing before it"),
        "deep by indentation": (indented(150), "nested too deeply"),
        "deep by dashes": ("- " * 150, "nested too deeply"),
        "deep by brackets": ("[" * 150 + "]" * 150, "nested too deeply"),
        "deep, unclosed": ("[" * 100_000, "maximum nesting depth"),
        "deep by aliases": (
            "\n".join(["a0: &a0 []", *(f"a{i}: &a{i} [[*a{i - 1}]]" for i in range(1, 30))]),
            "nested too deeply",
        ),
        "a key twice": ("a: 1\na: 2", "duplicate key a"),
        "a function": ("a: !!python/name:os.mkdir", "could not determine a constructor"),
        "a set": ("a: !!set {b}", "could not determine a constructor"),
        "bytes": ("a: !!binary aGk=", "could not determine a constructor"),
        "a truth that is none": ("a: !!bool x", "x"),
        "a map that is none": ("a: !!map [1]", "ScalarNode"),
        "a list as a key": ("? [a]\n: b", "unhashable key"),
        "a zero byte": ("a: \0", "control characters"),
        "a number of 5,000 digits": (f"a: {'9' * 5000}", "digits"),
        "two documents": ("--- 1\n--- 2", "single document"),
    }.values(),
)
def test_yaml_that_is_no_plain_tree_is_refused(text: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        parse_yaml(text)


@pytest.mark.parametrize("depth", [40, 41])
def test_forty_levels_are_allowed(depth: int):
    text = "[" * depth + "]" * depth
    for parse in (parse_yaml, parse_json):
        if depth == 40:
            assert str(parse(text)) == text
        else:
            with pytest.raises(ValueError, match="nested too deeply"):
                parse(text)


def test_deep_json_is_refused():
    for text in ('{"a":' * 500 + "1" + "}" * 500, "[" * 100_000):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(text)


def test_only_regular_files_of_the_allowed_size_are_read(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "file").write_text("12345")
    for name in ("pipe", "link", "zero", "."):
        with pytest.raises(ValueError, match="not a regular file"):
            read_text(tmp_path / name)
    assert read_text(tmp_path / "file", 5) == "12345"
    with pytest.raises(ValueError, match="more than 4 bytes"):
        read_text(tmp_path / "file", 4)
    # Its size is given as 0.
    with pytest.raises(ValueError, match="more than 4 bytes"):
        read_text(Path("/proc/self/status"), 4)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "nowhere")


def test_writing_stays_inside(tmp_path: Path):
    folder = tmp_path / "run"
    (folder / "inner").mkdir(parents=True)
    (folder / "file").write_text("")
    (folder / "near").symlink_to("inner")
    (folder / "far").symlink_to(tmp_path)
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe")
    # The folder itself may be a link: its user chose it.
    (tmp_path / "link").symlink_to(folder)
    for root in (folder, tmp_path / "link"):
        for names in (["file"], ["new"], ["near", "new"], ["inner", "a", "b"], ["loop"], []):
            assert inside(root, *names) == root.joinpath(*names)
        for names in (["far"], ["far", "new"], ["nowhere"], ["..", "x"], ["near", "..", "..", "x"]):
            with pytest.raises(CheckpointError, match=r"outside \S+, where nothing is written"):
                inside(root, *names)
        with pytest.raises(CheckpointError, match="neither a file nor a folder"):
            inside(root, "pipe")
