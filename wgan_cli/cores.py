"""The number of CPU cores that this process may use.

A machine often has more than a process may use: its CPU affinity (`taskset`, Slurm), the CPU quota
of its control group (a container's) and hyperthreads, two of which share one core, all count.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Set
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def usable_cores(root: Path = _ROOT) -> int:
    """Return the number of cores that this process may use, at least 1.

    These are the physical cores that its CPU affinity allows, but no more than the CPU quota of its
    control group. A fraction of the quota does not count: threads that compute one product wait for
    each other, so all of them would stand still whenever the kernel pauses one. `root` is where
    /proc and /sys are. On systems other than Linux, this is `os.cpu_count()`.
    """
    cpus = usable_cpus()
    if not cpus:
        return os.cpu_count() or 1
    cores = physical_cores(cpus, root)
    quota = cpu_quota(root)
    return cores if quota is None else max(1, min(cores, int(quota)))


def usable_cpus() -> set[int]:
    """Return the numbers of the CPUs (hyperthreads) that this process may use.

    On systems other than Linux, this is empty.
    """
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return affinity(0) if affinity else set()


def own_cores(root: Path = _ROOT) -> int:
    """Return this process's share of the usable cores, at least 1.

    torchrun's processes on a machine share its cores equally.
    """
    return max(1, usable_cores(root) // local_processes())


def local_processes() -> int:
    """Return the number of processes that torchrun started on this machine; 1 without torchrun."""
    stated = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(stated)) if stated.isdecimal() else 1


def physical_cores(cpus: Set[int], root: Path = _ROOT) -> int:
    """Return the number of physical cores to which these CPUs (hyperthreads) belong."""
    return len({_siblings(cpu, root) for cpu in cpus})


def _siblings(cpu: int, root: Path) -> str:
    """Return the list of the CPUs on the core of `cpu`: the same text for each of them."""
    topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    # The second is the file's name in kernels before 5.3.
    for name in ("core_cpus_list", "thread_siblings_list"):
        if text := _text(topology / name):
            return text
    return f"{cpu}"


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Return the CPU time per second that control groups allow this process; None if unlimited.

    The limits of all enclosing groups apply too, so this is the smallest of them.
    """
    limits = [_limit(folder) for mount, group in _own_groups(root) for folder in _up(mount, group)]
    return min((limit for limit in limits if limit is not None), default=None)


def _own_groups(root: Path) -> Iterator[tuple[Path, PurePosixPath]]:
    """Yield where control groups are mounted, and below that folder the path of our own group.

    Only hierarchies that may limit CPU time count: version 2, and "cpu" of version 1.
    """
    groups = _paths_of_groups(root)
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            controller = ""
        elif kind[0] == "cgroup" and "cpu" in kind[2].split(","):
            controller = "cpu"
        else:
            continue
        shown, mount = (_unescaped(field) for field in fields[3:5])
        group = groups.get(controller)
        if group is not None:
            # A container may show only its own part of the hierarchy: `shown` is that part.
            below = group.relative_to(shown) if group.is_relative_to(shown) else PurePosixPath()
            yield root / mount.lstrip("/"), below


def _paths_of_groups(root: Path) -> dict[str, PurePosixPath]:
    """Return this process's group for each controller of version 1, and "" for version 2."""
    groups = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            groups[controller] = PurePosixPath(path)
    return groups


def _up(mount: Path, group: PurePosixPath) -> Iterator[Path]:
    """Yield the group's folder and those of its enclosing groups.

    A process of a container may have a path that is valid outside the container only. Then the
    container's own group is what is mounted.
    """
    if ".." in group.parts or not (mount / group).is_dir():
        group = PurePosixPath()
    for below in (group, *group.parents):
        yield mount / below


def _limit(folder: Path) -> float | None:
    """Return a group's own limit in CPUs. Without one, the quota is "max" or -1, or has no file."""
    version2 = _text(folder / "cpu.max")
    version1 = f"{_text(folder / 'cpu.cfs_quota_us')} {_text(folder / 'cpu.cfs_period_us')}"
    quota, _, period = (version2 or version1).partition(" ")
    if quota.isdecimal() and period.isdecimal() and int(period):
        return int(quota) / int(period)
    return None


def _unescaped(field: str) -> str:
    """Return a path of mountinfo, in which white space and backslashes are octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
