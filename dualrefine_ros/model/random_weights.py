"""Networks without training: for tests, and for a demonstration where no weights are at hand."""

from __future__ import annotations

import torch

from dualrefine_ros.errors import ConfigError
from dualrefine_ros.model.config import PRESETS, ModelConfig
from dualrefine_ros.model.dualrefine import DualRefine


def random_model(config: str | ModelConfig = "small", seed: int = 0) -> DualRefine:
    """A network with random weights, in evaluation mode; its numbers mean nothing.

    Args:
        config: a configuration, or the name of a preset: published, small.
        seed: the same seed gives the same weights, and leaves torch's generator as it was.

    Raises:
        ConfigError: there is no preset of that name.
    """
    if isinstance(config, str):
        if config not in PRESETS:
            raise ConfigError(f"There is no network '{config}': choose one of {', '.join(PRESETS)}.")
        config = PRESETS[config]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DualRefine(config).eval()
