"""Resume a run: read its config and checkpoint; refuse untrusted classes and changed settings."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wgan_cli.commands.trust import check_trusted
from wgan_cli.errors import CheckpointError, ConfigError, DataError
from wgan_cli.files import reading
from wgan_cli.run_folder import CONFIG, RunFolder, read_config
from wgan_cli.run_status import read_status
from wgan_cli.schema import TrainConfig
from wgan_cli.validation import flatten, no_setting

log = logging.getLogger("wgan_cli")
# Settings that may change on resume, because the weights at a step do not depend on them.
MAY_DIFFER = {
    "steps",
    "log_every",
    "sample_every",
    "checkpoint_every",
    "eval_every",
    "eval_samples",
    "feature_samples",
    "keep_every",
    "metrics",
    "profile",
    "logger",
    "device",
    "graphs",
    "resume",
    # These take effect only after divergence.
    "on_divergence",
    "rollback",
    # These affect how images are read, not the images themselves.
    "dataset.in_memory",
    "dataset.workers",
    "dataset.corrupt_limit",
}
_SHOWN = 5


def run_of(resume: Path) -> Path:
    """Return the run folder for `resume`, the path of a run folder or of a checkpoint in one.

    Raises `CheckpointError`.
    """
    with reading(f"resume={resume}", CheckpointError):
        if not resume.exists():
            raise CheckpointError(f"resume={resume}: there is no such run folder or checkpoint.")
        run = resume if resume.is_dir() else resume.absolute().parent.parent
        found = (run / CONFIG).is_file()
    if not found:
        raise CheckpointError(
            f"resume={resume} is no run folder: it holds no {CONFIG}."
            if resume.is_dir()
            else f"resume={resume} is not a checkpoint in a run folder (RUN/checkpoints/step_N.pt)."
        )
    return run


def saved_config(path: Path, trusted: Sequence[str]) -> dict[str, Any]:
    """Return a run's saved config, after checking that it names only trusted classes.

    Raises `CheckpointError` or `ConfigError`.
    """
    config = read_config(path)
    for key in ("defaults", "hydra"):
        if key in config:
            raise CheckpointError(
                f"{path} has {key!r}, which no saved config has and which may name code: take it"
                " out. What you need of it goes on the command line, as hydra.run.dir=FOLDER does."
            )
    known = [field.name for field in dataclasses.fields(TrainConfig)]
    for key in config:
        if key not in known:
            raise ConfigError(f"{path}: {no_setting(key, known)}")
    refuse_references(config, path)
    check_trusted(config, trusted)
    return config


def refuse_references(node: Any, path: Path) -> None:
    """Raise `CheckpointError` for OmegaConf references: they could hide untrusted class names."""
    if isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            refuse_references(value, path)
    elif isinstance(node, str) and "${" in node:
        raise CheckpointError(f"{path} holds a reference ({node}); a saved config has values only.")


def state_to_resume(folder: RunFolder, resume: str | None) -> dict[str, Any] | None:
    """Return the state of the checkpoint to resume from, or None to start from scratch.

    If `resume` is a file, this file is the checkpoint. If `resume` is a run folder or "auto", the
    newest checkpoint in `folder` is used. If there is no checkpoint, "auto" starts from scratch,
    and a run folder raises `CheckpointError`.
    """
    if resume is None:
        return None
    from wgan_cli.training.checkpoint import check_whole, load_checkpoint, load_newest

    if resume != "auto" and Path(resume).is_file():
        run_of(Path(resume))
        chosen = load_checkpoint(Path(resume))
        check_whole(chosen, Path(resume))
        return chosen
    state, path, warnings = load_newest(folder.checkpoints)
    for warning in warnings:
        log.warning("%s", warning)
    if state is None and resume != "auto":
        raise CheckpointError(f"resume={resume}: there is no checkpoint that can be read.")
    if state is None and read_status(folder.path).step:
        log.warning("%s holds no checkpoint: it begins anew.", folder.path)
    if state is not None and path is not None:
        check_whole(state, path)
        log.info("Going on from %s.", path)
    return state


def refuse_changes(saved: dict[str, Any], now: dict[str, Any], where: Path) -> None:
    """Raise `ConfigError` with a short diff if a setting outside `MAY_DIFFER` has changed."""
    old, new = flatten(saved), flatten(now)
    changed = [
        f"{key} {old.get(key, 'absent')} → {new.get(key, 'absent')}"
        for key in {**old, **new}
        if not {key, key.partition(".")[0]} & MAY_DIFFER and old.get(key) != new.get(key)
    ]
    if changed:
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise ConfigError(
            f"{where} was trained with other settings: {', '.join(changed[:_SHOWN])}{more}. Leave"
            " them as they were, or start a new run; only steps, the cadences, metrics, profile,"
            " logger, device, graphs, on_divergence and the way images are read may differ."
        )


def refuse_other_data(saved: dict[str, Any] | None, now: dict[str, Any]) -> None:
    """Raise `DataError` if the data set has changed since the run's checkpoint.

    `now` is the result of `build.data_facts` for the current data. `saved` is its result in the
    checkpoint, or None if the checkpoint has none.
    """
    if saved is not None and saved != now:
        before, after = (
            f"{facts['training']} + {facts['held_out']} samples"
            + (f" of {facts['classes']} classes" if facts["classes"] else "")
            for facts in (saved, now)
        )
        raise DataError(
            f"The data have changed since the run's checkpoint, from {before} to {after}, so"
            " held-out samples might be trained on: bring the old files back, or start a new run."
        )


def refuse_other_samples(state: dict[str, Any], shape: list[int], classes: int | None) -> None:
    """Raise `CheckpointError` if the data's sample shape or classes differ from the checkpoint."""
    if shape != list(state["sample_shape"]):
        raise CheckpointError(
            f"The run's samples have shape {state['sample_shape']}, its data set's now {shape}."
        )
    if classes != state.get("classes"):
        raise CheckpointError(
            f"The run's networks have {state.get('classes')} classes, its data set has {classes}"
            " now."
        )
