"""Saved configs of earlier versions, in today's words.

What a later version added and an old config lacks needs nothing here: it is off where it is absent.
"""

from __future__ import annotations

from typing import Any

# What a setting is called now, for whoever types its old name.
RENAMED = {"batch_norm": "It is norm now: batch_norm=true is norm=batch, false is norm=none."}


def migrated(config: dict[str, Any]) -> dict[str, Any]:
    """A saved config as this version would have saved it; another's settings stay as they are.

    DCGAN's networks had `batch_norm`, true or false, where they have `norm`. The optimizer's `lr`
    was filled in where both networks had their own, and had no effect.
    """
    model, optimizer = config.get("model"), config.get("optimizer")
    if isinstance(model, dict):
        networks = {key: _migrated_network(node) for key, node in model.items()}
        config = {**config, "model": networks}
    if isinstance(optimizer, dict) and optimizer.get("lr") is not None and _own_rates(optimizer):
        config = {**config, "optimizer": {**optimizer, "lr": None}}
    return config


def _own_rates(optimizer: dict[str, Any]) -> bool:
    nodes = [optimizer.get(network) for network in ("critic", "generator")]
    return all(isinstance(node, dict) and node.get("lr") is not None for node in nodes)


def _migrated_network(node: Any) -> Any:
    if not isinstance(node, dict) or not isinstance(node.get("batch_norm"), bool):
        return node
    if not str(node.get("_target_")).startswith("wgan_cli.models.dcgan."):
        return node
    rest = {key: value for key, value in node.items() if key != "batch_norm"}
    return {**rest, "norm": "batch" if node["batch_norm"] else "none"}
