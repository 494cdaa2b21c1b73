"""The types and ranges of every setting: one dataclass a component, and the root's.

Default values stand in `configs/`, once; here are types, ranges and what each setting is. A setting
with a default here is one that saved configs of earlier versions do not have.
"""

from wgan_cli.schema.constraints import CONSTRAINTS
from wgan_cli.schema.datasets import DATASETS, Recommended
from wgan_cli.schema.loggers import LOGGERS
from wgan_cli.schema.losses import LOSSES
from wgan_cli.schema.metrics import METRICS
from wgan_cli.schema.models import MODELS
from wgan_cli.schema.optimizers import OPTIMIZERS
from wgan_cli.schema.root import TrainConfig

__all__ = ["METRICS", "SCHEMAS", "SCHEMAS_OF", "Recommended", "TrainConfig"]

# Options shipped here, by group and target. Anything else is a user's own, checked against its
# signature.
SCHEMAS_OF: dict[str, dict[str, type]] = {
    "dataset": DATASETS,
    "model": MODELS,
    "loss": LOSSES,
    "constraint": CONSTRAINTS,
    "optimizer": OPTIMIZERS,
    "logger": LOGGERS,
}
SCHEMAS = {target: schema for group in SCHEMAS_OF.values() for target, schema in group.items()}
