"""The nav stack's examples against the names that its packages declare.

The names were read in their sources: robot_localization (branch ros2) params/ekf.yaml, navigation2 (jazzy)
nav2_costmap_2d, depthimage_to_laserscan (ros2). A filter that does not know a name ignores it silently.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dualrefine_ros.ros.config import NodeConfig

EXAMPLES = Path(__file__).parents[1] / "config" / "examples"
EKF = {
    "frequency",
    "sensor_timeout",
    "two_d_mode",
    "publish_tf",
    "map_frame",
    "odom_frame",
    "base_link_frame",
    "world_frame",
}
EKF_SENSOR = {"config", "queue_size", "differential", "relative", "remove_gravitational_acceleration"}
COSTMAP = {
    "global_frame",
    "robot_base_frame",
    "rolling_window",
    "width",
    "height",
    "resolution",
    "plugins",
    "update_frequency",
}
LAYERS = {
    "nav2_costmap_2d::VoxelLayer": {
        "plugin",
        "enabled",
        "origin_z",
        "z_resolution",
        "z_voxels",
        "mark_threshold",
        "min_obstacle_height",
        "max_obstacle_height",
        "unknown_threshold",
        "combination_method",
        "publish_voxel_map",
        "footprint_clearing_enabled",
        "observation_sources",
    },
    "nav2_costmap_2d::InflationLayer": {"plugin", "enabled", "inflation_radius", "cost_scaling_factor"},
}
OBSERVATION = {
    "topic",
    "sensor_frame",
    "observation_persistence",
    "expected_update_rate",
    "data_type",
    "min_obstacle_height",
    "max_obstacle_height",
    "inf_is_valid",
    "marking",
    "clearing",
    "obstacle_max_range",
    "obstacle_min_range",
    "raytrace_max_range",
    "raytrace_min_range",
}
LASER = {"scan_time", "range_min", "range_max", "scan_height", "output_frame"}


def parameters(file: str, *names: str) -> dict[str, Any]:
    values = yaml.safe_load((EXAMPLES / file).read_text())
    for name in (*names, "ros__parameters"):
        assert set(values) == {name}
        values = values[name]
    return values


def test_the_filter_fuses_our_velocity() -> None:
    values = parameters("robot_localization_ekf.yaml", "ekf_filter_node")
    sensors = [name.removesuffix("_config") for name in values if name.endswith("_config")]
    known = EKF | {
        sensor if not end else f"{sensor}_{end}" for sensor in sensors for end in (*EKF_SENSOR, "")
    }
    assert set(values) <= known
    for sensor in sensors:
        assert len(values[f"{sensor}_config"]) == 15
        assert all(isinstance(value, bool) for value in values[f"{sensor}_config"])
    assert values["odom0"] == f"/{NodeConfig.odometry_topic}"
    assert values["odom0_config"][6:8] == [True, True]  # vx, vy
    assert not any(values["odom0_config"][:6])  # no pose: two odometries' poses drift apart
    assert (values["odom_frame"], values["base_link_frame"]) == (NodeConfig.odom_frame, NodeConfig.base_frame)


def test_the_costmap_takes_our_cloud() -> None:
    values = parameters("nav2_costmap.yaml", "local_costmap", "local_costmap")
    layers = {name: values[name] for name in values["plugins"]}
    assert set(values) <= COSTMAP | set(layers)
    for layer in layers.values():
        sources = layer.get("observation_sources", "").split()
        assert set(layer) <= LAYERS[layer["plugin"]] | set(sources)
        for source in sources:
            assert set(layer[source]) <= OBSERVATION
            assert layer[source]["topic"] == f"/{NodeConfig.points_topic}"
            assert layer[source]["data_type"] == "PointCloud2"
    assert values["global_frame"] == NodeConfig.odom_frame


def test_the_laser_is_made_of_our_depth() -> None:
    assert set(parameters("depthimage_to_laserscan.yaml", "depthimage_to_laserscan")) <= LASER
    text = (EXAMPLES / "depthimage_to_laserscan.yaml").read_text()
    assert f"-r depth:=/{NodeConfig.depth_topic} -r depth_camera_info:=/depth/camera_info" in text
