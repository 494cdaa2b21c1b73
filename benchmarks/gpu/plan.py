"""The parts, their order and their shares of the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A part: what it is, and its weight in the shared time. `child` has the code of each."""

    title: str
    weight: float


# The weights are about the seconds that each part has of eight minutes.
PARTS: Mapping[int, Part] = {
    1: Part("device, versions, flags, precision and ceilings", 35),
    2: Part("single updates against float64 on the CPU", 95),
    3: Part("graphs against eager, cut and resumed, CPU and CUDA", 80),
    4: Part("what happens when something goes wrong", 70),
    5: Part("the commands as a user types them", 50),
    6: Part("speed against the textbook loop", 100),
    7: Part("real trainings", 50),
}
# A part with less time than this would only start Python and torch.
LEAST = 12.0


def chosen(words: str | None) -> list[int]:
    """The parts named in a text such as "1,3,6", in the issue's order; all for None.

    Raises ValueError for anything else.
    """
    if words is None:
        return sorted(PARTS)
    numbers = sorted({int(word) for word in words.split(",")})
    if unknown := [number for number in numbers if number not in PARTS]:
        raise ValueError(f"there is no part {unknown[0]}")
    return numbers


def limit(part: int, waiting: Sequence[int], seconds: float) -> float:
    """The seconds that a part may take, of `seconds` for it and the parts in `waiting` after it.

    So what an earlier part did not use goes to all later ones.
    """
    weights = sum(PARTS[number].weight for number in (part, *waiting))
    return seconds * PARTS[part].weight / weights
