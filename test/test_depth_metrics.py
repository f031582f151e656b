"""Depth figures on maps whose errors are worked out by hand, and by a loop over pixels."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from dualrefine_ros.errors import ConfigError, DataError
from dualrefine_ros.evaluation.depth_metrics import DepthProtocol, evaluate_depth, mean_errors

EVERY_PIXEL = DepthProtocol(garg_crop=False, median_scaling=False)


def depth(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_figures_worked_out_by_hand() -> None:
    """Errors -2 m of 10 m and +5 m of 20 m: ratios 1.25 (not below it) and 1.25."""
    errors, _ = evaluate_depth(depth([8, 25, 3]), depth([10, 20, math.nan]), EVERY_PIXEL)
    assert errors.abs_rel == pytest.approx((2 / 10 + 5 / 20) / 2)
    assert errors.sq_rel == pytest.approx((4 / 10 + 25 / 20) / 2)
    assert errors.rmse == pytest.approx(math.sqrt((4 + 25) / 2))
    assert errors.rmse_log == pytest.approx(math.log(1.25))
    assert (errors.a1, errors.a2, errors.a3) == (0, 1, 1)
    assert (errors.scale, errors.pixels) == (1, 2)


def test_accuracies_count_factors() -> None:
    """Factors 1.2, 1.5, 1.9 and 2.0 lie below 1.25, 1.5625, 1.953 and above all."""
    truth = depth([12, 10, 10, 20])
    errors, _ = evaluate_depth(depth([10, 15, 19, 10]), truth, EVERY_PIXEL)
    assert (errors.a1, errors.a2, errors.a3) == (0.25, 0.5, 0.75)


def test_depths_beyond_the_cap_do_not_count_and_predictions_are_clamped() -> None:
    errors, compared = evaluate_depth(depth([500, 5, 0.0001]), depth([40, 90, 2]), EVERY_PIXEL)
    assert errors.pixels == 2
    assert errors.abs_rel == pytest.approx((40 / 40 + (2 - 0.001) / 2) / 2)
    np.testing.assert_allclose(compared, [[80, 5, 0.001]], rtol=1e-6)


def test_median_scaling_undoes_a_scale() -> None:
    truth = np.random.default_rng(0).uniform(2, 70, (60, 80)).astype(np.float32)
    errors, compared = evaluate_depth(truth / 7, truth)
    assert errors.scale == pytest.approx(7, rel=1e-5)
    assert errors.abs_rel == pytest.approx(0, abs=1e-6)
    assert errors.a1 == 1
    np.testing.assert_allclose(compared, truth, rtol=1e-5)
    unscaled, _ = evaluate_depth(truth / 7, truth, DepthProtocol(median_scaling=False))
    assert unscaled.abs_rel == pytest.approx(6 / 7)


def test_median_is_taken_over_pixels_that_count() -> None:
    truth, prediction = np.full((375, 1242), 10.0, np.float32), np.full((375, 1242), 5.0, np.float32)
    truth[:153], prediction[:153] = 20.0, 1.0  # the sky, above the crop
    assert evaluate_depth(prediction, truth)[0].scale == pytest.approx(2)


def test_garg_crop_of_a_kitti_image() -> None:
    """Rows 153.04 to 371.96 and columns 44.6 to 1197.4, both cut off to integers."""
    counts = DepthProtocol().counts(np.full((375, 1242), 10.0, np.float32))
    assert counts[153:371, 44:1197].all()
    assert counts.sum() == (371 - 153) * (1197 - 44)


def test_agrees_with_a_loop_over_pixels() -> None:
    rng = np.random.default_rng(1)
    truth = rng.uniform(0.5, 100, (40, 50)).astype(np.float32)
    truth[rng.random(truth.shape) < 0.8] = np.nan
    prediction = (truth * rng.lognormal(0, 0.4, truth.shape)).astype(np.float32)
    prediction[np.isnan(prediction)] = 7
    rows = [
        (float(prediction[y, x]), float(truth[y, x]))
        for y in range(int(0.40810811 * 40), int(0.99189189 * 40))
        for x in range(int(0.03594771 * 50), int(0.96405229 * 50))
        if 1e-3 < truth[y, x] < 80
    ]
    scale = statistics.median(t for _, t in rows) / statistics.median(p for p, _ in rows)
    rows = [(min(max(p * scale, 1e-3), 80.0), t) for p, t in rows]
    count = len(rows)
    errors, _ = evaluate_depth(prediction, truth)
    assert errors.pixels == count > 50
    assert errors.abs_rel == pytest.approx(sum(abs(p - t) / t for p, t in rows) / count, rel=1e-6)
    assert errors.sq_rel == pytest.approx(sum((p - t) ** 2 / t for p, t in rows) / count, rel=1e-6)
    assert errors.rmse == pytest.approx(math.sqrt(sum((p - t) ** 2 for p, t in rows) / count), rel=1e-6)
    logs = [(math.log(p) - math.log(t)) ** 2 for p, t in rows]
    assert errors.rmse_log == pytest.approx(math.sqrt(sum(logs) / count), rel=1e-6)
    for power, share in ((1, errors.a1), (2, errors.a2), (3, errors.a3)):
        assert share == sum(max(p / t, t / p) < 1.25**power for p, t in rows) / count


def test_another_size_is_resized_as_disparity() -> None:
    """Half-way between 2 m and 10 m lies the mean of their disparities, 0.3 / m."""
    prediction = np.full((4, 4), 2.0, np.float32)
    prediction[:, 2:] = 10.0
    _, compared = evaluate_depth(prediction, np.full((4, 9), 5.0, np.float32), EVERY_PIXEL)
    assert compared.shape == (4, 9)
    np.testing.assert_allclose(compared[:, 4], 1 / 0.3, rtol=1e-6)
    np.testing.assert_allclose(compared[:, [0, 8]], [[2, 10]] * 4, rtol=1e-6)


def test_means_weigh_images_equally() -> None:
    one, _ = evaluate_depth(depth([9]), depth([10]), EVERY_PIXEL)
    many, _ = evaluate_depth(depth([13] * 9), depth([10] * 9), EVERY_PIXEL)
    mean = mean_errors([one, many])
    assert mean.abs_rel == pytest.approx(0.2)
    assert mean.a1 == 0.5
    assert mean.pixels == 5


def test_what_cannot_be_compared() -> None:
    nothing = np.full((8, 8), np.nan, np.float32)
    with pytest.raises(DataError, match="no pixel"):
        evaluate_depth(np.ones((8, 8), np.float32), nothing)
    with pytest.raises(DataError, match="lacks a value"):
        evaluate_depth(nothing, np.ones((8, 8), np.float32))
    with pytest.raises(ConfigError, match="0 < min < max"):
        DepthProtocol(min_depth=90)
