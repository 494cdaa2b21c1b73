"""Read text, YAML and JSON files that may come from somebody else.

A file's kind and size are checked before it is read, and the depth and size of YAML before it is
built. So a pipe cannot block a command, and a small file cannot fill the memory.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wgan_cli.operating_system import READ_AT_ONCE, while_in_use

# The largest size of a YAML file, of other small files, and of a run's metrics, in bytes.
MOST_YAML = 2**20
MOST_SMALL = 16 * 2**20
MOST_METRICS = 2**30
# The deepest nesting of lists and dicts, and the most values of a YAML file with aliases expanded.
_DEEPEST = 40
_MOST_VALUES = 100_000
_TOO_DEEP = "it is nested too deeply"


def read_text(path: Path, most: int = MOST_SMALL, *, errors: str = "strict") -> str:
    """Return the text of a regular file, decoded as UTF-8; `errors` is as in `bytes.decode`.

    Raises `OSError` if the file cannot be opened, and `ValueError` if it is a pipe, a device or
    another special file, has more than `most` bytes, or cannot be decoded.
    """
    return read_bytes(path, most).decode(errors=errors)


def read_bytes(path: Path, most: int = MOST_SMALL) -> bytes:
    """Return the content of a regular file. The errors are those of `read_text`."""
    refuse_special(path)
    # Another process may have replaced the file by a pipe since: do not wait for its writer.
    descriptor = while_in_use(lambda: os.open(path, READ_AT_ONCE))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a regular file")
        # Do not trust the size in the status: it is 0 for files in /proc.
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return data


def refuse_special(path: Path) -> None:
    """Raise `ValueError` if `path`, or what it links to, is no regular file: a folder or a pipe.

    Raises `OSError` if there is no such file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a regular file")


def reason(error: OSError | ValueError) -> str:
    """Return why a file cannot be read, for a message such as "PATH cannot be read: REASON."."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()).rstrip(".")


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file: dicts, lists, text, numbers, booleans and None.

    The errors are those of `read_text` and `parse_yaml`.
    """
    return parse_yaml(read_text(path, MOST_YAML))


def parse_yaml(text: str) -> Any:
    """Parse YAML as OmegaConf does: `1e-4` is a number, and a date is text.

    Raises `ValueError` if the text is invalid, has a key twice, is nested more than 40 levels deep,
    has more than 100,000 values with aliases expanded, or holds anything but plain values.
    """
    try:
        _refuse_bomb(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_data()
        finally:
            loader.dispose()
        # Raise now if Python cannot print an integer, because it has too many digits.
        str(node)
    except (yaml.YAMLError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # PyYAML raises other errors than its own for values that do not fit their tag.
        reason = " ".join(str(error).split()).replace('in "<unicode string>", ', "in ")
        raise ValueError(reason) from None
    return node


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. The errors are those of `read_text` and `parse_json`."""
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:
    """Parse JSON. Raises `ValueError` if it is invalid or nested more than 40 levels deep."""
    try:
        node = json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level = [node]
    for _ in range(_DEEPEST):
        level = [item for inner in level for item in _items(inner)]
        if not level:
            return node
    raise ValueError(_TOO_DEEP)


def _items(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


@dataclass
class _Extent:
    """The depth of a YAML value below itself, and the number of values in it, aliases expanded."""

    depth: int = 0
    values: int = 1
    anchor: str | None = None

    def add(self, item: _Extent) -> None:
        """Include a value that lies directly in this one."""
        self.depth = max(self.depth, item.depth + 1)
        self.values += item.values


def _refuse_bomb(text: str) -> None:
    """Raise `YAMLError` for a text whose values are too deep or too many, or contain themselves."""
    anchored: dict[str | None, _Extent] = {}
    around = [_Extent()]
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            around.append(_Extent(anchor=event.anchor))
            # A deep text may hold no value: check its depth before it ends.
            item = _Extent()
        elif isinstance(event, yaml.CollectionEndEvent):
            item = around.pop()
            anchored[item.anchor] = item
            around[-1].add(item)
        elif isinstance(event, yaml.ScalarEvent):
            item = anchored[event.anchor] = _Extent()
            around[-1].add(item)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchored:
                raise yaml.YAMLError(f"the alias *{event.anchor} names nothing before it")
            item = anchored[event.anchor]
            around[-1].add(item)
        else:
            continue
        if len(around) - 1 + item.depth > _DEEPEST:
            raise yaml.YAMLError(_TOO_DEEP)
        if around[-1].values > _MOST_VALUES:
            raise yaml.YAMLError("it has too many values")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A YAML loader that parses as OmegaConf's does, but is 18 times as fast."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return a dict. Raises `ConstructorError` for a key that occurs twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag == _TEXT:
                if key.value in seen:
                    problem = f"found duplicate key {key.value}"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_TAG = "tag:yaml.org,2002:"
_TEXT = f"{_TAG}str"
# OmegaConf's numbers: unlike YAML 1.1, it takes 1e-4 as one.
_FLOAT = re.compile(
    r"""^(?:
     [-+]?[0-9]+(?:_[0-9]+)*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9]+(?:_[0-9]+)*(?:[eE][-+]?[0-9]+)
    |\.[0-9]+(?:_[0-9]+)*(?:[eE][-+][0-9]+)?
    |[-+]?[0-9]+(?:_[0-9]+)*(?::[0-5]?[0-9])+\.[0-9_]*
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.X,
)
_Loader.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+0123456789."))
# A date stays text.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
# Of all tags, only those of plain values make something. None stands for every other tag.
_Loader.yaml_constructors = {
    tag: _Loader.yaml_constructors[tag]
    for tag in (
        None,
        *(_TAG + kind for kind in ("null", "bool", "int", "float", "str", "seq", "map")),
    )
}
