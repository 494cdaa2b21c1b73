"""Settings with good values, and values that are odd or broken whatever the setting."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

from wgan_cli.config import configs_folder
from wgan_cli.schema import METRICS

# As words: what Hydra's grammar reads as something else, or not at all.
ODD_WORDS = (
    *("", " ", "null", "true", "0", "-1", "-0.0", "1e-400", "1e400", "nan", "-inf", "0x10", "1_0"),
    *("'", '"', "''", "\\", "\\'", "'a", '"a', "(", ")", "[", "]", "{", "}", "[]", "{}", "[[]]"),
    *(
        "[1,",
        "{a:",
        "{a:1",
        "{a:1}",
        "{a:{b:{c:1}}}",
        "{1:2}",
        "{null:1}",
        "[1,[2,[3]]]",
        "{a:1,a:2}",
    ),
    *(
        "=",
        "==",
        "a=b",
        ">",
        ">x",
        "<x",
        "|",
        "&",
        ";",
        "#",
        "%",
        "@",
        "!x",
        "*",
        "*.yaml",
        "?",
        "~",
    ),
    *("${", "${}", "${a}", "${seed}", "${.seed}", "${..}", "${oc.env:HOME}", "${oc.env:NOWHERE}"),
    *("${oc.env:NOWHERE,1}", "${now:%Y}", "${now:%}", "${hydra:job.num}", "${hydra:runtime.cwd}"),
    *("${oc.decode:'[1,2'}", "${oc.create:{a:1}}", "${oc.select:steps,2}", "${${seed}}", "$", "$$"),
    *("\\${seed}", "${a:${b:${c}}}", "${oc.dict.keys:model}", "${oc.deprecated:seed}", "???"),
    *(
        "a b",
        "a\tb",
        "a\nb",
        "\n",
        "\r",
        "a\x1b[31mb",
        "\x7f",
        "é",
        "名前",
        "🦆",
        "\u202e",
        "\ufeff",
    ),
    *("a\udc80", "\udcff", "e\u0301", "-", "--", "-m", "--help", "../x", "./x", "x/y", "x//y", "/"),
    *("!!python/name:os.mkdir", "!!int x", "&a", "*a", "<<", "_target_", "builtins.dict", "a.b.c"),
    *("int(x)", "int(1)", "float(1)", "bool(3)", "str(1)", "json_str([1])", "extend_list(1)"),
    *("1e3", "1.", ".5", "+1", "1,", ",", ",,", "1e", "0.1.2", "12-34", "٣", "1" + "0" * 400),
    *("a" * 300, "a/" * 150, "[" * 3000, "{a:" * 3000, "${" * 3000, "(" * 3000, "é" * 200),
)
# What only a sweep may have.
CHOICES = (
    *(
        "1,2",
        "a,b",
        "1,",
        "choice(1,2)",
        "choice()",
        "choice(",
        "range(2)",
        "range(1,3)",
        "range(0)",
    ),
    *("range(1,1)", "range(2,1)", "range(1,2,0)", "range(0,1,0.5)", "range(a)", "range(nan)"),
    *("interval(0,1)", "interval(1,0)", "interval(a)", "glob(*)", "glob(*,exclude=w*)", "glob([)"),
    *(
        "sort(2,1)",
        "shuffle(1,2)",
        "tag(x,choice(1,2))",
        "choice(choice(1))",
        "[1],[2]",
        "{a:1},{b:2}",
    ),
)


def nested(depth: int) -> Any:
    """Return lists in lists."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


# As the values of JSON and YAML files.
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 3, 0.5, 1e308, -1e308, float("nan"), float("inf"), 10**400, 2**63),
    *(
        "",
        " ",
        "a",
        "null",
        "nan",
        "é",
        "\ud800",
        "a\n b",
        "a\x00b",
        "\x1b[31m",
        "a" * 300,
        "1e400",
    ),
    *("${seed}", "${", "${oc.env:HOME}", "${a}", "???", "../../outside", "/nowhere/at/all", "<b>&"),
    *([], {}, [[]], [None], {"": 1}, {"a": {"b": {}}}, [1, "a"], {"_target_": 3}, ["\ud800"]),
    *(nested(50), nested(2000), list(range(5000))),
)
# Settings whose large values mean long work. The limit is far above what the cases need.
_SIZES = re.compile(
    r"(steps|every|samples|n_critic|batch_size|latent_dim|width|depth|threads|times|modes|classes"
    r"|n|trials|size|side|workers|groups|power_iterations|max_batch_size|limit|count|n_jobs)$"
)
_LARGE, _REFUSED = 64, 1e9
# What fetches, compiles or trains a classifier.
_SLOW = re.compile(r"download|compile|torch-fidelity|classifier|inception|hydra/launcher=sub")
_NUMBER = re.compile(r"[-+]?[\d_]*\.?\d+(?:[eE][-+]?\d+)?")


def costly(word: str) -> bool:
    """Return whether a word could ask for long work or a download."""
    key, _, value = word.partition("=")
    if _SLOW.search(word) and "download=false" not in word:
        return True
    if not _SIZES.search(key) and "_every" not in value:
        return False
    numbers = [float(number.replace("_", "") or 0) for number in _NUMBER.findall(value)]
    return any(_LARGE < number <= _REFUSED for number in numbers)


@cache
def options() -> dict[str, tuple[str, ...]]:
    """Return the names of every group's options."""
    folders = sorted(path for path in configs_folder().iterdir() if path.is_dir())
    return {
        folder.name: tuple(sorted(path.stem for path in folder.glob("*.yaml")))
        for folder in folders
        if folder.name != "search"
    }


@cache
def settings() -> dict[str, Any]:
    """Return every dotted setting of the root and of all groups' options, with a default."""
    found: dict[str, Any] = {}
    for path in sorted(configs_folder().rglob("*.yaml")):
        group = path.parent.relative_to(configs_folder()).as_posix()
        if group not in ("search", "debug", "experiment"):
            start = "" if group == "." else f"{group}."
            found.update(_flat(yaml.safe_load(path.read_text(encoding="utf-8")) or {}, start))
    return {key: value for key, value in found.items() if not key.startswith(("defaults", "hydra"))}


@cache
def downloads(option: str) -> bool:
    """Return whether a data set's option, or the one that an experiment chooses, may download."""
    experiment = configs_folder() / "experiment" / f"{option}.yaml"
    text = experiment.read_text(encoding="utf-8") if experiment.exists() else ""
    names = [option, *re.findall(r"^\s*- override /dataset: (\w+)", text, re.M)]
    files = [configs_folder() / "dataset" / f"{name}.yaml" for name in names]
    return any("\ndownload:" in file.read_text(encoding="utf-8") for file in files if file.exists())


def good_value(random: Random, key: str) -> str:
    """Return a value that the setting may have."""
    default = settings().get(key)
    if key == "metrics":
        return "[" + ",".join(random.sample(sorted(METRICS), random.randint(1, 2))) + "]"
    if isinstance(default, bool):
        return random.choice(["true", "false"])
    if isinstance(default, int):
        return str(random.randint(1, 8))
    if isinstance(default, float):
        return random.choice([str(default), "0.5", "1e-3", "1"])
    return str(random.choice([default, "null", 2, 0.5, "none"]))


def odd_word(random: Random) -> str:
    """Return an odd value, or two of them in a row, in quotes or in brackets."""
    value = random.choice(ODD_WORDS)
    shape = random.random()
    if shape < 0.1:
        return value + random.choice(ODD_WORDS)
    if shape < 0.2:
        return random.choice(["'{}'", '"{}"', "[{}]", "{{a:{}}}", "${{{}}}", "({})"]).format(value)
    return value


def odd_value(random: Random) -> Any:
    """Return an odd value for a JSON or YAML file."""
    return random.choice(ODD_VALUES)


def _flat(node: Any, start: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{start}{key}.")
        else:
            yield f"{start}{key}", value


def folder_name(random: Random) -> str:
    """Return a relative folder's name that stays inside the current folder."""
    return random.choice(
        [
            *("out", "a/b/c", ".", "./x", "x/", "x//y", "a b", "é", "名", "-x", "~", "~/x", "'q'"),
            *("'a,b'", "'a=b'", "'[x]'", "'*'", "x%y", "x#y", "a\nb", "a" * 300, "a/" * 40 + "b"),
            *("${now:%H-%M}", "${seed}", "${oc.env:NOWHERE}", "null", "''", "[a]", "3", "file/x"),
            *("/dev/null/x", "/proc/x", "a\udc80", "'\\'", "x/../y", "train.log", "config.yaml"),
        ]
    )


def path_of(folder: Path, name: str) -> Path:
    """Return the path of a name in the folder, and make the folders above it."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
