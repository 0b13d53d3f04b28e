"""Typed, strict configuration."""

from megabiomed.config.evaluation import EvalConfig, EvalTaskConfig
from megabiomed.config.health import HealthConfig
from megabiomed.config.load import load_config, to_yaml
from megabiomed.config.lora import LoraConfig
from megabiomed.config.models import ModelConfig
from megabiomed.config.schema import (
    CheckpointConfig,
    DataConfig,
    KernelsConfig,
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
    "EvalConfig",
    "EvalTaskConfig",
    "HealthConfig",
    "KernelsConfig",
    "LoraConfig",
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
