"""Typed, strict configuration."""

from megabiomed.config.load import load_config, to_yaml
from megabiomed.config.schema import (
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    RunConfig,
    SourceConfig,
    TrackingConfig,
    TrainConfig,
)

__all__ = [
    "CheckpointConfig",
    "DataConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "RunConfig",
    "SourceConfig",
    "TrackingConfig",
    "TrainConfig",
    "load_config",
    "to_yaml",
]
