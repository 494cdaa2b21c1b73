"""Waits for the GPU as errors: the mode is restored, and torch's notice is not printed."""

from __future__ import annotations

import warnings

import pytest
import torch

from wgan_cli.acceleration.sync_debug import waits_are_errors

NOTICE = (
    "Synchronization debug mode is a prototype feature and does not yet detect all synchronizing"
    " operations (Triggered internally at Module.cpp:1080.)"
)


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> list[int | str]:
    """The modes that are set, the first before the test. Each is set with torch's notice."""
    modes: list[int | str] = [1]

    def set_mode(mode: int | str) -> None:
        warnings.warn(NOTICE, UserWarning, stacklevel=2)
        warnings.warn(f"mode {mode}", UserWarning, stacklevel=2)
        modes.append(mode)

    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    return modes


def test_the_mode_holds_in_the_block_and_only_the_notice_is_silent(modes: list[int | str]):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with pytest.raises(RuntimeError, match="waited"), waits_are_errors():
            assert modes == [1, "error"]
            warnings.warn("inside", UserWarning, stacklevel=1)
            raise RuntimeError("waited")
    assert modes == [1, "error", 1]
    assert [str(warning.message) for warning in heard] == ["mode error", "inside", "mode 1"]
