"""Build the objects of a run from the config. No other package builds objects from the config."""

from wgan_cli.build.data import (
    build_dataset,
    build_evaluation,
    cache_folder,
    classes_of,
    complete,
    data_facts,
)
from wgan_cli.build.networks import build_constraint, build_critic, build_generator, facts_of
from wgan_cli.build.trainer import build_callbacks, build_loggers, build_rollback, build_trainer

__all__ = [
    "build_callbacks",
    "build_constraint",
    "build_critic",
    "build_dataset",
    "build_evaluation",
    "build_generator",
    "build_loggers",
    "build_rollback",
    "build_trainer",
    "cache_folder",
    "classes_of",
    "complete",
    "data_facts",
    "facts_of",
]
