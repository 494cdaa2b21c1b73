"""The environment variables that say how OpenMP's threads wait; set them before importing torch."""

from __future__ import annotations

import os

# GCC's runtime (libgomp) asks GOMP_SPINCOUNT times before it sleeps: a fifth of a millisecond to
# one, depending on the CPU, where its own choice is up to 15. With PASSIVE, threads sleep at once
# while the runtime has more threads than there are cores (see `monitor`). Intel's and LLVM's
# runtimes spin for KMP_BLOCKTIME, where their own choice is 200 ms.
POLICY = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "20000", "KMP_BLOCKTIME": "200us"}
_VARIABLES = (*POLICY, "KMP_LIBRARY")


def set_wait_policy() -> None:
    """Set the variables, also for child processes, unless the user has set one of them."""
    if not wait_policy():
        os.environ.update(POLICY)
        # Runtimes from before 2023 know no microseconds: they would warn, and wait for 200 ms.
        os.environ.setdefault("KMP_WARNINGS", "0")


def has_own_policy() -> bool:
    """Return whether the variables are those of `set_wait_policy`, not a user's."""
    return wait_policy() == POLICY


def wait_policy() -> dict[str, str]:
    """Return those of the variables that are set."""
    return {name: os.environ[name] for name in _VARIABLES if name in os.environ}
