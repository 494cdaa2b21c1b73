"""The phases of a step by name, for a profiler that asks for them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

# Opens a range of this name; it ends with the `with` block.
Phase = Callable[[str], AbstractContextManager[object]]

_NOTHING = nullcontext()


def untraced(name: str) -> AbstractContextManager[object]:
    """No range: what a phase costs while nobody profiles, under a microsecond."""
    return _NOTHING
