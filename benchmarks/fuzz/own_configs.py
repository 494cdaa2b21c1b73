"""A user's own folder of YAML files, given by --config-dir or as a search's space."""

from __future__ import annotations

from pathlib import Path
from random import Random

from benchmarks.fuzz.command_lines import SHORT, bounded
from benchmarks.fuzz.contents import Edit, as_yaml, replaced
from benchmarks.fuzz.values import odd_value, odd_word, options, path_of, settings

FOLDER = "mine"
_MODEL = "wgan_cli.models.mlp"
# As a file of any group.
TEXTS: dict[str, bytes] = {
    "nothing": b"",
    "a comment": b"# only words",
    "text": b"abc",
    "a number": b"3",
    "null": b"null",
    "a list": b"- a\n- b\n",
    "a list of lists": b"- - 1\n  - [2]\n",
    "a good network": f"generator: {{_target_: {_MODEL}.Generator, width: 8, depth: 1}}\n"
    f"critic: {{_target_: {_MODEL}.Critic, width: 8, depth: 1}}\nname: own\n".encode(),
    "half of a network": f"generator: {{_target_: {_MODEL}.Generator, width: 8}}\n".encode(),
    "an unknown target": b"_target_: nowhere.Nothing\nname: own\n",
    "a target that is no name": b"_target_: [1]\nname: own\n",
    "a target of torch": b"_target_: torch.nn.Linear\nin_features: 2\nout_features: 1\nname: own\n",
    "a harmless target": b"_target_: builtins.dict\nname: own\n",
    "a module as target": b"_target_: os\nname: own\n",
    "a loss without methods": b"_target_: builtins.object\n",
    "an anchor": b"a: &x {b: 1}\nc: *x\n",
    "an unknown alias": b"a: *x\n",
    "a cycle": b"a: &x\n  b: *x\n",
    "a cycle in a list": b"&x [*x]\n",
    "a merge": b"a: &x {b: 1}\n<<: *x\n",
    "a merge of itself": b"a: &x\n  <<: *x\n",
    "a merge of text": b"<<: abc\n",
    "many aliases": b"a0: &a0 [x, x]\n"
    + b"".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n".encode() for n in range(1, 12)),
    "brackets": b"a: " + b"[" * 3000 + b"]" * 3000,
    "open brackets": b"a: " + b"{b: " * 3000,
    "deep blocks": b"".join(b" " * n + b"a:\n" for n in range(500)),
    "a tag": b"a: !!python/object/apply:os.mkdir [executed]\n",
    "a tag of a name": b"a: !!python/name:os.mkdir\n",
    "an unknown tag": b"a: !x y\n",
    "a set": b"a: !!set {b, c}\n",
    "bytes": b"a: !!binary aGVsbG8=\n",
    "a date": b"a: 2024-01-01\nb: 2024-99-99\n",
    "a key twice": b"a: 1\na: 2\n",
    "a key that is null": b"null: 1\n~: 2\n",
    "a key that is a list": b"? [a, b]\n: 1\n",
    "a key that is a number": b"1: 2\n3.5: 4\ntrue: 5\n",
    "an empty key": b"'': 1\n",
    "keys with dots": b"a.b: 1\n'a b': 2\n'a=b': 3\n",
    "two documents": b"a: 1\n---\nb: 2\n",
    "Latin-1": "a: é\n".encode("latin-1"),
    "UTF-16": "a: é\n".encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbfa: 1\n",
    "a NUL": b"a: \x00\n",
    "an escape": b'a: \x1b[31m\nb: "\\ud800"\n',
    "a tab": b"a:\n\tb: 1\n",
    "a reference": b"a: ${nowhere}\nb: ${a}\n",
    "a reference to itself": b"a: ${.a}\n",
    "an open reference": b"a: '${'\n",
    "an unknown resolver": b"a: ${x:1}\n",
    "a missing value": b"a: ???\n_target_: ???\n",
    "a huge number": b"steps: " + b"9" * 5000 + b"\n",
    "a long line": b"a: " + b"x" * 2_000_000 + b"\n",
    "CRLF": b"a: 1\r\nb: 2\r\n",
    "a package": b"# @package _global_\nsteps: 1\n",
    "an odd package": b"# @package a..b\nsteps: 1\n",
    "an empty package": b"# @package\nsteps: 1\n",
    "defaults": b"defaults: [{override /loss: hinge}, _self_]\n",
    "defaults of itself": b"defaults: [own]\n",
    "defaults of nothing": b"defaults: [{/loss: nowhere}]\n",
    "defaults that are text": b"defaults: abc\n",
    "defaults of numbers": b"defaults: [1, null, [2], {a: 1, b: 2}]\n",
    "defaults above": b"defaults: [../../../x]\n",
}
SPACES: dict[str, bytes] = {
    "a good space": b"{metric: wasserstein/exact, direction: minimize, trials: 1,"
    b" space: {clip: {low: 0.01, high: 0.1}}}",
    "an empty space": b"{metric: wasserstein/exact, trials: 1, space: {}}",
    "an unknown metric": b"{metric: x, trials: 1, space: {seed: {low: 1, high: 2}}}",
    "a space that is a list": b"{metric: wasserstein/exact, direction: maximize, space: [1]}",
    "text bounds": b"{metric: wasserstein/exact, trials: 1, space: {clip: {low: a, high: b}}}",
    "odd bounds": b"{metric: wasserstein/exact, trials: 1, space: {clip: {low: 2, high: 1}}}",
    "huge bounds": b"{metric: wasserstein/exact, trials: 1, space: {clip: {low: 0, high: 1e400}}}",
    "odd choices": b"{metric: wasserstein/exact, trials: 1, space: {clip: {choices: [[1]]}}}",
    "no choices": b"{metric: wasserstein/exact, trials: 1, space: {clip: {choices: []}}}",
    "a sampler's name": b"{metric: wasserstein/exact, sampler: {name: x}, trials: 1, space: {}}",
    "words of text": b"{metric: wasserstein/exact, words: abc, trials: 1, space: {clip: {low: 1}}}",
    "no trials": b"{metric: wasserstein/exact, trials: 0, space: {clip: {low: 0.1, high: 1}}}",
}


def own_config(random: Random) -> tuple[str, list[str], list[Edit]]:
    """Return a command's name, its words, and the edits that write the user's folder."""
    if random.random() < 0.12:
        return _search(random)
    if random.random() < 0.15:
        return _whole_folder(random)
    group = random.choice(sorted(options()))
    name = random.choice(
        ["own"] * 6 + ["own.more", "ö wn", "a" * 200, random.choice(options()[group])]
    )
    edits = [_file(f"{FOLDER}/{group}/{name}.yaml", TEXTS, random)]
    if random.random() < 0.2:
        edits.append(replaced(f"{FOLDER}/{group}/{name}.yaml", random))
    flags = random.choice([[], [], [], [], ["--cfg", "job"], ["--help"], ["--info", "all"], ["-m"]])
    word = random.choice(
        [f"{group}={name}"] * 4 + [f"+{group}={name}", f"+{group}@x={name}", "seed=1"]
    )
    return "wgan-train", [*bounded([word]), "--config-dir", FOLDER, *flags], edits


def _whole_folder(random: Random) -> tuple[str, list[str], list[Edit]]:
    """Return a case whose folder is none, or that names a config in it for the root."""
    if random.random() < 0.4:
        return "wgan-train", [*SHORT, "--config-dir", FOLDER], [replaced(FOLDER, random)]
    edits = [_file(f"{FOLDER}/config.yaml", TEXTS, random)]
    if random.random() < 0.3:
        edits = [replaced(f"{FOLDER}/config.yaml", random)]
    return "wgan-train", [*SHORT, "--config-dir", FOLDER, "--config-name", "config"], edits


def _search(random: Random) -> tuple[str, list[str], list[Edit]]:
    space = f"{FOLDER}/space.yaml"
    edits = [_file(space, random.choice([SPACES, SPACES, TEXTS]), random)]
    if random.random() < 0.2:
        edits.append(replaced(space, random))
    more = random.choice([[], [], ["x=1"], [odd_word(random)], ["steps=x"], ["--trials", "0"]])
    return "wgan-search", [space, *SHORT, "eval_every=1", "--trials", "1", *more], edits


def _file(name: str, texts: dict[str, bytes], random: Random) -> Edit:
    """Return an edit that writes a file: one of the texts, or one odd value of a setting."""
    what = random.choice(sorted(texts))
    content = texts[what]
    if random.random() < 0.25:
        key = random.choice(sorted(settings())).rpartition(".")[2]
        what = f"an odd {key}"
        value = as_yaml({key: odd_value(random)})
        content = value.encode("utf-8", "surrogatepass")

    def make(folder: Path) -> None:
        path_of(folder, name).write_bytes(content)

    return Edit(f"{name[:80]} is {what}", make)
