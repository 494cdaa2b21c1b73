"""How fast a run goes."""

from __future__ import annotations

import time


class Throughput:
    """Steps and real images since the last regular log point, over wall time, all included."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.restart(0, 0)

    def restart(self, step: int, critic_updates: int) -> None:
        """Count from here."""
        self._since = (time.perf_counter(), step, critic_updates)

    def report(self, step: int, critic_updates: int, *, restart: bool) -> dict[str, float]:
        """Numbers by tag, at once after `step`; none where no step was done."""
        now = time.perf_counter()
        then, first, updates_before = self._since
        if restart:
            self._since = (now, step, critic_updates)
        if step == first:
            return {}
        seconds = max(now - then, 1e-9)
        images = (critic_updates - updates_before) * self.batch_size
        return {
            "throughput/images_per_second": images / seconds,
            "throughput/step_ms": 1000 * seconds / (step - first),
        }
