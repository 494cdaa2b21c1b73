"""Switch between spinning and sleeping threads, as the machine gets busy or idle."""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from pathlib import Path

from wgan_cli.cores import usable_cpus
from wgan_cli.waiting.load import Load, load_between, read
from wgan_cli.waiting.policy import has_own_policy

log = logging.getLogger(__name__)

# Seconds between two readings.
_WINDOW = 0.25
# So much of a core may be used by others, or be waited for, before the machine counts as busy.
_SLACK = 0.2
# The machine must look idle in so many windows in a row before threads spin again. If it is busy
# again within `_SOON` windows, twice as many are needed the next time.
_CALM, _MOST_CALM, _SOON = 2, 120, 40
# The throttle needs a thread for each core. Where a run may use many cores, other programs rarely
# use so many that its threads lack one.
_MOST_CORES = 16
# The throttle is given up if the system does not allow so many threads more than it needs.
_RESERVE = 8


class Judge:
    """Decides from one load after another whether threads should sleep at once.

    `cores` is the number of cores that the process may use, and `threads` that of its OpenMP
    threads.
    """

    def __init__(self, cores: int, threads: int) -> None:
        self.cores = cores
        self.threads = threads
        self.sleeping = False
        self._needed = _CALM
        self._calm = 0
        self._since_release = _SOON

    def judge(self, load: Load) -> bool:
        """Return whether threads should sleep at once in the next window."""
        left = self.cores - self.threads
        busy = self.threads > 1 and (load.others > left + _SLACK or load.delayed > _SLACK)
        self._calm = 0 if busy else self._calm + 1
        if self.sleeping:
            self.sleeping = self._calm < self._needed
            self._since_release = 0
        else:
            self._since_release += 1
            if self._since_release >= _SOON:
                self._needed = _CALM
            if busy:
                self.sleeping = True
                if self._since_release < _SOON:
                    self._needed = min(2 * self._needed, _MOST_CALM)
        return self.sleeping


class Throttle:
    """Makes all threads of GCC's OpenMP runtime (libgomp) sleep at once instead of spinning.

    The runtime does this itself while it has more threads than there were cores when it was loaded.
    So `hold` lets another Python thread open a parallel region with one thread more than there are
    `cores`. They do nothing and sleep. `release` ends them. If `OMP_THREAD_LIMIT` is smaller, this
    has no effect.

    Raises OSError or AttributeError if torch does not use this runtime.
    """

    def __init__(self, cores: int) -> None:
        import torch

        if hasattr(ctypes.CDLL(None), "kmp_set_blocktime"):
            raise OSError("Intel's or LLVM's runtime is loaded instead")
        library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
        self._parallel = ctypes.CDLL(str(library)).GOMP_parallel
        self._parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        self._parallel.restype = None
        # free(NULL) does nothing.
        self._nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)
        self._threads = cores + 1
        self._over: threading.Event | None = None

    def hold(self) -> None:
        """Begin to let threads sleep at once. Raises RuntimeError if this needs too many threads.

        The runtime ends the whole process if it cannot start a thread.
        """
        if self._over is None:
            _try_threads(self._threads + _RESERVE)
            self._over = threading.Event()
            threading.Thread(
                target=self._keep_threads, args=[self._over], name="wgan-throttle", daemon=True
            ).start()

    def release(self) -> None:
        """Let threads spin again."""
        if self._over is not None:
            self._over.set()
            self._over = None

    def _keep_threads(self, over: threading.Event) -> None:
        # The region's threads live as long as this one.
        self._parallel(self._nothing, None, self._threads, 0)
        over.wait()


def _try_threads(count: int) -> None:
    """Start this many threads and end them. Raises RuntimeError if the system does not allow it."""
    over, started = threading.Event(), []
    try:
        for _ in range(count):
            thread = threading.Thread(target=over.wait, daemon=True)
            thread.start()
            started.append(thread)
    finally:
        over.set()
        for thread in started:
            thread.join()


class Monitor(threading.Thread):
    """Reads the machine's load several times a second, and switches the throttle.

    The first time that the machine is busy after `told` was false, a line in the log says so.
    """

    def __init__(self, judge: Judge, throttle: Throttle) -> None:
        super().__init__(name="wgan-monitor", daemon=True)
        self.judge = judge
        self.throttle = throttle
        self.told = False

    def run(self) -> None:
        """Switch until the process ends, or the load is not told, or threads cannot be started."""
        try:
            before = read()
            while True:
                time.sleep(_WINDOW)
                after = read()
                load = load_between(before, after)
                before = after
                if self.judge.judge(load):
                    self._tell(load)
                    self.throttle.hold()
                else:
                    self.throttle.release()
        except (OSError, ValueError, RuntimeError):
            return
        finally:
            self.throttle.release()

    def _tell(self, load: Load) -> None:
        if not self.told:
            self.told = True
            log.info(
                "The machine is busy: other processes use %.1f of the %d cores, and threads of this"
                " one wait for a core. A step takes longer.",
                load.others,
                self.judge.cores,
            )


_monitor: Monitor | None = None


def watch_load(threads: int) -> None:
    """Begin to adapt how this process's threads wait, for a team of `threads` OpenMP threads.

    This does nothing if there is nobody to wait for, if the user has chosen how threads wait, if
    the system does not tell its load, if torch uses another runtime than GCC's, or if the process
    may use more than 16 cores. Call it again for each run.
    """
    global _monitor
    if _monitor is not None and _monitor.is_alive():
        _monitor.judge.threads = threads
        _monitor.told = False
        return
    cores = len(usable_cpus())
    if threads < 2 or cores > _MOST_CORES or not has_own_policy():
        return
    try:
        read()
        _monitor = Monitor(Judge(cores, threads), Throttle(cores))
    except (OSError, ValueError, AttributeError):
        return
    _monitor.start()
