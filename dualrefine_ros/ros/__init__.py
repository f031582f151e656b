"""The thin ROS 2 side: message conversion and the node."""
