"""The DualRefine network (see the paper, CVPR 2023); it knows tensors only, no frames and no topics."""

from dualrefine_ros.model.checkpoint import (
    CheckpointInfo,
    load_checkpoint,
    read_info,
    read_published,
    save_checkpoint,
)
from dualrefine_ros.model.config import PRESETS, PUBLISHED, SMALL, ModelConfig
from dualrefine_ros.model.dualrefine import DualRefine, Prediction
from dualrefine_ros.model.equilibrium import SolverStatus
from dualrefine_ros.model.published import from_published
from dualrefine_ros.model.random_weights import random_model

__all__ = [
    "PRESETS",
    "PUBLISHED",
    "SMALL",
    "CheckpointInfo",
    "DualRefine",
    "ModelConfig",
    "Prediction",
    "SolverStatus",
    "from_published",
    "load_checkpoint",
    "random_model",
    "read_info",
    "read_published",
    "save_checkpoint",
]
