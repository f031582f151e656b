"""Monocular visual odometry and depth for ROS 2, by DualRefine (Bangunharcana et al., CVPR 2023)."""

__version__ = "0.1.0"
