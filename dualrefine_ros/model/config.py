"""What a DualRefine network is made of."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from dualrefine_ros.errors import ConfigError

STRIDE = 32  # of the coarsest feature map


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the shape and meaning of the weights; stored with them.

    Raises:
        ConfigError: a number is out of range.
    """

    depth_backbone: str = "hrnet_w18"  # timm name; hrnet_w18 is the paper's
    pose_backbone: str = "resnet18"  # timm name; resnet18 is the paper's
    height: int = 192  # network input, pixels; 192x640 is the paper's MR, 288x960 its HR
    width: int = 640
    min_depth: float = 0.1  # metres, at disparity 1
    max_depth: float = 100.0  # metres, at disparity 0
    pose_updates: bool = True  # refine the pose too (paper, Tab. 2)
    fixed_confidence: bool = True  # weigh pixels by the frames' own confidence (paper, Sec. 3.2.2)
    evolving_confidence: bool = True  # weigh pixels by the hidden state's confidence (paper, Sec. 3.2.2)
    coarse_steps: int = 0  # of the pose before refinement, on maps of 1/16 and 1/8; the paper has none
    depth_deviation: float = 0.0  # of log depth in the pose step; 0 is the paper's: depth taken for exact

    def __post_init__(self) -> None:
        for side, value in (("height", self.height), ("width", self.width)):
            if value <= 0 or value % STRIDE:
                raise ConfigError(f"The network {side} must be a multiple of {STRIDE}, not {value}.")
        if not 0 < self.min_depth < self.max_depth:
            raise ConfigError(
                f"Depths must satisfy 0 < min_depth < max_depth, not {self.min_depth}, {self.max_depth}."
            )
        if not (isinstance(self.coarse_steps, int) and self.coarse_steps >= 0):
            raise ConfigError(f"coarse_steps must be a whole number, 0 or more, not {self.coarse_steps}.")
        if not (self.depth_deviation >= 0 and isfinite(self.depth_deviation)):
            raise ConfigError(f"depth_deviation must be 0 or a positive number, not {self.depth_deviation}.")


PUBLISHED = ModelConfig()  # the network of depth_pose.pth
SMALL = ModelConfig(
    depth_backbone="tf_efficientnet_lite0",
    pose_backbone="tf_efficientnet_lite0",
    height=96,
    width=320,
    coarse_steps=2,
    depth_deviation=10.0,  # practically unknown
)
PRESETS = {"published": PUBLISHED, "small": SMALL}
