"""How far a depth map is from the true one, in the seven figures of the literature.

The protocol is that of Eigen et al., "Depth Map Prediction from a Single Image using a Multi-Scale Deep
Network", NIPS 2014, as the self-supervised literature applies it: only pixels of known depth up to 80 m
inside the crop of Garg et al. ("Unsupervised CNN for Single View Depth Estimation", ECCV 2016) count, and a
prediction of unknown scale is multiplied by the ratio of medians.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import cv2
import numpy as np
import numpy.typing as npt

from dualrefine_ros.errors import ConfigError, DataError

DepthMap = npt.NDArray[np.float32]

GARG_CROP = (0.40810811, 0.99189189, 0.03594771, 0.96405229)  # top, bottom (of H), left, right (of W)
ACCURACY_BASE = 1.25  # a1, a2, a3 count pixels within this factor, its square, its cube


@dataclass(frozen=True)
class DepthProtocol:
    """What counts and how.

    Raises:
        ConfigError: the depths are not 0 < min < max < inf.
    """

    min_depth: float = 1e-3  # metres; nearer predictions count as this
    max_depth: float = 80.0  # metres; truth beyond does not count, predictions beyond count as this
    garg_crop: bool = True  # Eigen test; False for the improved ground truth (all its pixels count)
    median_scaling: bool = True  # False for a prediction that claims metres

    def __post_init__(self) -> None:
        if not 0 < self.min_depth < self.max_depth < np.inf:
            limits = f"{self.min_depth} and {self.max_depth}"
            raise ConfigError(f"The depths that count must be 0 < min < max < inf, not {limits}.")

    def counts(self, truth: DepthMap) -> npt.NDArray[np.bool_]:
        """(H, W) whether each pixel counts."""
        mask = (truth > self.min_depth) & (truth < self.max_depth)  # NaN is neither
        if self.garg_crop:
            height, width = truth.shape
            top, bottom, left, right = (
                int(fraction * side)
                for fraction, side in zip(GARG_CROP, (height, height, width, width), strict=True)
            )
            cropped = np.zeros_like(mask)
            cropped[top:bottom, left:right] = mask[top:bottom, left:right]
            return cropped
        return mask


@dataclass(frozen=True)
class DepthErrors:
    """Figures of one depth map, or their means over many.

    Args:
        abs_rel: mean of |d - d*| / d*.
        sq_rel: mean of (d - d*)^2 / d*, in metres.
        rmse: root mean square of d - d*, in metres.
        rmse_log: root mean square of ln d - ln d*.
        a1, a2, a3: share of pixels with max(d / d*, d* / d) below 1.25, 1.25^2, 1.25^3.
        scale: what the prediction was multiplied by.
        pixels: how many counted.
    """

    abs_rel: float
    sq_rel: float
    rmse: float
    rmse_log: float
    a1: float
    a2: float
    a3: float
    scale: float
    pixels: float


def evaluate_depth(
    prediction: DepthMap, truth: DepthMap, protocol: DepthProtocol = DepthProtocol()
) -> tuple[DepthErrors, DepthMap]:
    """Compare a depth map with the true one.

    Args:
        prediction: (h, w) positive metres, up to scale; another size is resized to the truth's.
        truth: (H, W) metres, NaN where unknown.

    Returns:
        The figures, and the prediction as it was compared: (H, W), scaled and clamped.

    Raises:
        DataError: no pixel of the truth counts, or the prediction has no value where it does.
    """
    counts = protocol.counts(truth)
    if not counts.any():
        raise DataError(f"no pixel has a true depth up to {protocol.max_depth:g} m where it would count.")
    prediction = _resize_as_disparity(prediction, truth.shape)
    predicted, true = prediction[counts].astype(np.float64), truth[counts].astype(np.float64)
    if not (np.isfinite(predicted) & (predicted > 0)).all():
        raise DataError("the prediction lacks a value at pixels that count.")
    scale = float(np.median(true) / np.median(predicted)) if protocol.median_scaling else 1.0
    predicted = np.clip(predicted * scale, protocol.min_depth, protocol.max_depth)
    compared = np.clip(prediction * np.float32(scale), protocol.min_depth, protocol.max_depth)

    difference = predicted - true
    factor = np.maximum(predicted / true, true / predicted)
    errors = DepthErrors(
        abs_rel=float(np.mean(np.abs(difference) / true)),
        sq_rel=float(np.mean(difference**2 / true)),
        rmse=float(np.sqrt(np.mean(difference**2))),
        rmse_log=float(np.sqrt(np.mean((np.log(predicted) - np.log(true)) ** 2))),
        a1=float(np.mean(factor < ACCURACY_BASE)),
        a2=float(np.mean(factor < ACCURACY_BASE**2)),
        a3=float(np.mean(factor < ACCURACY_BASE**3)),
        scale=scale,
        pixels=int(counts.sum()),
    )
    return errors, compared


def mean_errors(errors: Iterable[DepthErrors]) -> DepthErrors:
    """The mean of each figure over images, every image counting the same, as the literature does."""
    table = np.array([[getattr(e, field.name) for field in fields(DepthErrors)] for e in errors])
    return DepthErrors(*table.mean(axis=0).tolist())


def _resize_as_disparity(depth: DepthMap, shape: tuple[int, int]) -> DepthMap:
    if depth.shape == shape:
        return depth
    height, width = shape
    # the literature resizes what the network predicts, which is disparity
    disparity = cv2.resize(np.ascontiguousarray(1 / depth), (width, height), interpolation=cv2.INTER_LINEAR)
    return (1 / disparity).astype(np.float32)
