"""Command lines for every console script, of good, odd and broken words."""

from __future__ import annotations

import re
from math import prod
from random import Random

from benchmarks.fuzz.values import (
    CHOICES,
    costly,
    downloads,
    folder_name,
    good_value,
    odd_word,
    options,
    settings,
)
from benchmarks.tiny import TINY

# No evaluation is long, and every kind of output is written.
SHORT = [*TINY, "eval_samples=8", "feature_samples=8", "log_every=1", "sample_every=1"]
# The most jobs of a sweep.
MOST_JOBS = 4
FLAGS = (
    *(["--info"], ["--info", "all"], ["--info", "config"], ["--info", "defaults-tree"]),
    *(["--info", "plugins"], ["--info", "searchpath"], ["--info", "x"], ["--hydra-help"]),
    *(["--cfg", "job"], ["--cfg", "all"], ["--cfg", "hydra"], ["--cfg", "x"], ["--cfg"]),
    *(["--cfg", "job", "--resolve"], ["--cfg", "job", "--package", "model"], ["--package", "x"]),
    *(["--cfg", "job", "--package", "model.nowhere"], ["--cfg", "job", "--package", "${"]),
    *(["--cfg", "all", "--package", "hydra.run"], ["--cfg", "job", "-m"], ["--resolve"]),
    *(["--help"], ["-h"], ["--version"], ["--trust", "x"], ["--trust="], ["--trust"], ["-x"]),
    *(["--config-dir", "nowhere"], ["--config-dir"], ["--config-dir", ""], ["-cd", "."]),
    *(["--config-name", "x"], ["--config-name", "train"], ["-cn", "a\nb"], ["--config-path", "x"]),
    *(["-sc", "install=bash"], ["-sc", "x"], ["-sc", "query=bash"], ["-sc"], ["--run"], ["-r"]),
    *(["--experimental-rerun", "x"], ["--multirun"], ["--"], ["-"], ["--=x"], ["--cfg=job"]),
)
HYDRA = (
    *("hydra.mode=MULTIRUN", "hydra.mode=RUN", "hydra.mode=x", "hydra.mode=null", "hydra.mode=1"),
    *("hydra.job.chdir=true", "hydra.job.chdir=x", "hydra.job.name=a/b", "hydra.job.name=null"),
    *("hydra.job.env_set={A:b}", "hydra.job.env_set={A:null}", "+hydra.job.env_set.X=1"),
    *("hydra.job.env_copy=[HOME]", "hydra.job.env_copy=x", "hydra.verbose=true", "hydra.verbose=x"),
    *("hydra/launcher=basic", "hydra/launcher=x", "hydra.launcher=x", "hydra/sweeper=x", "hydra=x"),
    *("hydra.launcher._target_=x", "hydra.launcher._target_=builtins.dict", "~hydra.launcher"),
    *("hydra.sweeper.max_batch_size=0", "hydra.sweeper.params={steps:'1,2'}", "hydra.sweeper=null"),
    *("+hydra.sweeper.params.seed='1,2'", "hydra/job_logging=default", "hydra/job_logging=x"),
    *("hydra/hydra_logging=default", "hydra/hydra_logging=disabled", "hydra.job_logging=null"),
    *("+hydra.callbacks.x._target_=builtins.dict", "+hydra.callbacks.x=3", "hydra.callbacks=null"),
    *("+hydra.callbacks.x._target_=hydra.experimental.callback.Callback",),
    *("+hydra.callbacks.x._target_=nowhere.X", "hydra.callbacks={x:{_target_:builtins.list}}"),
    *("hydra.searchpath=[file://mine]", "hydra.searchpath=x", "hydra.searchpath=[x]"),
    *("hydra.searchpath=[pkg://nowhere]", "hydra.output_subdir=x", "hydra.output_subdir=.hydra"),
    *("hydra.output_subdir='a b'", "hydra.help.template=x", "hydra.runtime.cwd=x", "hydra.x=1"),
    *("+hydra.x=1", "~hydra.run", "~hydra", "~hydra.sweep.subdir", "hydra.run=null", "hydra=null"),
    *("hydra.overrides.task=[a]", "hydra.job.num=x", "hydra.job.id=a/b", "hydra.env=null"),
    *("hydra.job.config.override_dirname.item_sep=/", "hydra.sweep.subdir=${hydra.job.num}"),
    *("hydra.sweep.subdir=.", "hydra.sweep.subdir=x", "hydra.sweep.subdir=''", "hydra.sweep=null"),
    *("hydra.sweep.subdir=a/b", "hydra.sweep.subdir=${hydra.job.override_dirname}"),
    *("hydra.sweep.subdir=${seed}", "hydra.sweep.subdir=${nowhere}", "hydra.sweep.subdir=null"),
)
RESUMES = (
    *(
        "auto",
        "null",
        "nowhere",
        "''",
        ".",
        "..",
        "x/y",
        "true",
        "3",
        "[a]",
        "{a:1}",
        "'a,b'",
        "${",
    ),
    *(
        "/dev/null",
        "/dev/zero",
        "/",
        "file",
        "file/x",
        "outputs",
        "é",
        "a\nb",
        "${seed}",
        "a" * 300,
    ),
)
OTHERS = {
    "wgan-sample": ["--raw", "--trust", "--n", "--seed", "--class", "--out", "--help"],
    "wgan-eval": [
        *("--metrics", "--n", "--n-features", "--checkpoint", "--all-checkpoints", "--seed"),
        *("--root", "--device", "--raw", "--trust", "--help"),
    ],
    "wgan-report": ["--by", "--out", "--help"],
    "wgan-search": ["--trials", "--dir", "--help"],
}
_OUTS = ("x.png", "x.npy", "x.txt", "", "a/b.png", "file/x.png", "a" * 300 + ".png", ".", "é.png")


def command_line(random: Random) -> tuple[str, list[str]]:
    """Return a console script's name and its words."""
    if random.random() < 0.75:
        return "wgan-train", train_words(random)
    command = random.choice(sorted(OTHERS))
    return command, _other_words(random, command)


def train_words(random: Random) -> list[str]:
    """Return words for `wgan-train`, among them those that keep a training short."""
    words: list[str] = []
    for _ in range(random.choice([1, 1, 1, 2, 2, 3, 5])):
        words += random.choice([_option, _setting, _setting, _broken, _flag, _hydra])(random)
    if random.random() < 0.15:
        words.append("-m")
    if random.random() < 0.1:
        words.append(f"resume={random.choice(RESUMES)}")
    return bounded(words)


def bounded(words: list[str]) -> list[str]:
    """Return the words behind those of a short training, less those that ask for long work."""
    kept = [word for word in words if not costly(word)]
    chosen = [
        word.partition("=")[2] for word in kept if re.match(r"\W*(dataset|experiment)=", word)
    ]
    if any(downloads(name) for text in chosen for name in re.findall(r"\w+", text)):
        kept.append("dataset.download=false")
    while _jobs(kept) > MOST_JOBS:
        kept.remove(max(kept, key=lambda word: _jobs([word])))
    return [*SHORT, *kept]


def _jobs(words: list[str]) -> int:
    """Return the most jobs that the words can make in a sweep."""
    return prod(_values(word) for word in words)


def _values(word: str) -> int:
    key, _, value = word.partition("=")
    if "glob(" in value and key in options():
        return len(options()[key])
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", value)]
    many = int(max(numbers, default=1)) * 2 if "range(" in value else 1
    return max(1 + value.count(","), min(many, 1000))


def _option(random: Random) -> list[str]:
    group = random.choice(sorted(options()))
    name = random.choice(options()[group])
    name = random.choice(
        [name] * 6 + ["null", "x", f"[{name}]", f"{name},{name}", odd_word(random)]
    )
    sign = random.choice([""] * 8 + ["+", "++", "~"])
    place = random.choice([""] * 8 + ["@x", "@_global_", "@model", "@:x"])
    return [f"{sign}{group}{place}={name}"]


def _setting(random: Random) -> list[str]:
    key = random.choice(sorted(settings()))
    if random.random() < 0.1:
        key = random.choice([key[:-1], key + "x", key.partition(".")[0], f"{key}.x", key.upper()])
    value = random.choice(
        [good_value(random, key)] * 3 + [odd_word(random), random.choice(CHOICES)]
    )
    sign = random.choice([""] * 6 + ["+", "++", "~"])
    return [f"{sign}{key}={value}"]


def _broken(random: Random) -> list[str]:
    word = odd_word(random)
    key = random.choice(sorted(settings()))
    shapes = [
        word,
        f"{word}=1",
        f"+{word}=1",
        f"~{word}",
        f"~{key}",
        f"{key}",
        f"{key}==1",
        f"+{key}",
    ]
    return [random.choice([*shapes, f"={word}", f"{key}.{word}=1", f"{key}[0]=1", f"{key} = 1"])]


def _flag(random: Random) -> list[str]:
    return list(random.choice(FLAGS))


def _hydra(random: Random) -> list[str]:
    if random.random() < 0.4:
        which = random.choice(["run", "run", "sweep"])
        return [f"hydra.{which}.dir={folder_name(random)}"]
    return [random.choice(HYDRA)]


def _other_words(random: Random, command: str) -> list[str]:
    """Return words for a command that is given folders, none of which is there."""
    places = ["nowhere", "file", ".", "/dev/null", "", "é", "a" * 300, odd_word(random)]
    # A report on the whole machine takes long, and would be written there.
    words = [random.choice([place for place in places if place != "/"])]
    for _ in range(random.randint(0, 3)):
        flag = random.choice(OTHERS[command])
        value = random.choice(_OUTS) if flag in ("--out", "--dir") else odd_word(random)
        words += random.choice([[flag, value], [flag, str(random.randint(0, 9))], [flag]])
    if command == "wgan-search" and random.random() < 0.5:
        words += [odd_word(random), *_setting(random)]
    random.shuffle(words)
    if command == "wgan-search" and not {"nowhere", "file"} & set(words):
        words.append("--help")
    return [word for word in words if not costly(word)]
