# The node on ROS 2 Jazzy, for the CPU; not built by us yet. For a GPU drop the index of PyTorch's CPU wheels and run with
# --gpus all. Run it with --network host --ipc host, or with --shm-size 512m where the camera's driver is inside:
# config/fastdds.xml takes 67 MiB of /dev/shm for each process, and Docker gives 64 to all (docs/robot.md).
FROM ros:jazzy-ros-base
SHELL ["/bin/bash", "-c"]
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /ws
RUN python3 -m venv --system-site-packages venv && touch venv/COLCON_IGNORE \
    && venv/bin/pip install --no-cache-dir 'torch>=2.6' torchvision --index-url https://download.pytorch.org/whl/cpu \
    && venv/bin/pip install --no-cache-dir 'numpy<2' timm safetensors
COPY . src/dualrefine_ros
# RViz stays outside: a robot's container has no screen
RUN apt-get update && rosdep update && source /opt/ros/jazzy/setup.bash \
    && rosdep install --from-paths src --ignore-src -y --skip-keys "rviz2" \
    && rm -rf /var/lib/apt/lists/*
RUN source /opt/ros/jazzy/setup.bash && source venv/bin/activate && python -m colcon build
ENTRYPOINT ["/bin/bash", "-c", "source /ws/venv/bin/activate && source /ws/install/setup.bash && exec \"$@\"", "--"]
CMD ["ros2", "launch", "dualrefine_ros", "vo.launch.py"]
