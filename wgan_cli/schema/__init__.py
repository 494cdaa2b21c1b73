"""The types and ranges of every setting: a dataclass for each component, and those of the root.

Default values are in `configs/`, once. A setting that has a default here too is one that the saved
configs of earlier versions lack.
"""

from wgan_cli.schema.constraints import CONSTRAINTS
from wgan_cli.schema.datasets import DATASETS, Recommended
from wgan_cli.schema.losses import LOSSES
from wgan_cli.schema.metrics import METRICS
from wgan_cli.schema.models import MODELS
from wgan_cli.schema.optimizers import OPTIMIZERS
from wgan_cli.schema.root import FilledConfig, RunConfig, TrainConfig

__all__ = [
    "METRICS",
    "SCHEMAS",
    "SCHEMAS_OF",
    "FilledConfig",
    "Recommended",
    "RunConfig",
    "TrainConfig",
]

# Options shipped here, by group and target. Anything else is a user's own, checked against its
# signature.
SCHEMAS_OF: dict[str, dict[str, type]] = {
    "dataset": DATASETS,
    "model": MODELS,
    "loss": LOSSES,
    "constraint": CONSTRAINTS,
    "optimizer": OPTIMIZERS,
}
SCHEMAS = {target: schema for group in SCHEMAS_OF.values() for target, schema in group.items()}
