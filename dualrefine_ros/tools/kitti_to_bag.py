"""``dualrefine kitti-to-bag``: a KITTI sequence as a ROS 2 bag that any robot's tools can play."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from dualrefine_ros.data.bag_writer import BAG_VERSIONS, STORAGES, BagConfig, new_bag
from dualrefine_ros.data.image_files import ImageFiles
from dualrefine_ros.data.source import open_source
from dualrefine_ros.errors import ConfigError, DataError
from dualrefine_ros.frame import NANOSECONDS
from dualrefine_ros.geometry.axes import T_BASE_OPTICAL

CAMERA_HEIGHT = 1.65  # metres of KITTI's cameras above the road
EPOCH_NS = 1_317_000_000 * NANOSECONDS  # 26 September 2011, when KITTI's first drives were recorded
DEFAULT_QUALITY = 95
TOPIC = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+")  # of ROS 2, absolute


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dualrefine kitti-to-bag``."""
    defaults = BagConfig()
    parser.add_argument(
        "source", type=Path, help="KITTI odometry sequence or folder of them, or KITTI raw drive"
    )
    parser.add_argument("out", type=Path, help="folder of the bag, must not exist")
    parser.add_argument("--sequence", help="of a KITTI odometry folder, e.g. 09")
    parser.add_argument(
        "--camera", type=int, help="0 to 3; by default the left colour one, else the left gray one"
    )
    parser.add_argument("--storage", choices=STORAGES, default=defaults.storage, help="file format")
    parser.add_argument(
        "--bag-version",
        type=int,
        choices=BAG_VERSIONS,
        default=defaults.version,
        help="of the metadata: 8 for Humble and later, 9 for Jazzy and later",
    )
    parser.add_argument(
        "--images",
        choices=("raw", "jpeg"),
        default="raw",
        help="jpeg: JPEG files are copied, others compressed",
    )
    parser.add_argument(
        "--quality", type=int, default=DEFAULT_QUALITY, metavar="1-100", help="of compressed images"
    )
    parser.add_argument("--topic", default=defaults.image_topic, help="of the images")
    parser.add_argument(
        "--camera-height", type=float, default=CAMERA_HEIGHT, metavar="M", help="above base_link"
    )


def run(args: argparse.Namespace) -> int:
    """Convert, say what is in the bag."""
    source = open_source(args.source, sequence=args.sequence, camera=args.camera)
    if not isinstance(source, ImageFiles):
        raise DataError(f"{args.source} is no KITTI sequence: there is nothing to convert.")
    if not 1 <= args.quality <= 100:
        raise DataError(f"The quality of JPEG images is 1 to 100, not {args.quality}.")
    if not math.isfinite(args.camera_height):
        raise ConfigError(f"--camera-height must be a number of metres, not {args.camera_height}.")
    if not TOPIC.fullmatch(args.topic):
        raise ConfigError(
            f"--topic must be names of letters, digits and underscores, a slash before each, as in "
            f"{BagConfig.image_topic}, not '{args.topic}'."
        )
    compressed = args.images == "jpeg"
    config = BagConfig(args.storage, args.bag_version, args.topic, args.quality if compressed else None)
    written = convert(source, args.out, config, args.camera_height)
    skipped = f", {source.skipped} unreadable left out" if source.skipped else ""
    ground_truth = "with" if source.ground_truth is not None else "without"
    print(f"{args.out}: {written} images{skipped}, {ground_truth} ground truth.")
    return 0


def convert(source: ImageFiles, out: Path, config: BagConfig, camera_height: float = CAMERA_HEIGHT) -> int:
    """Write the source as a bag; the number of its images.

    Stamps that count from 0, as those of KITTI odometry, are moved to ``EPOCH_NS``: tf2 takes stamp 0 for
    "the latest".

    Raises:
        DataError: the bag cannot be written, or not one image could be read.
    """
    T_base_cam0 = T_BASE_OPTICAL.copy()
    T_base_cam0[2, 3] = camera_height
    offset_ns = EPOCH_NS if source.files[0].stamp_ns < EPOCH_NS else 0
    written = 0
    with (
        new_bag(out, T_base_cam0 @ source.T_cam0_cam, config) as bag,
        logging_redirect_tqdm(),
        tqdm(total=len(source), unit="image", desc=source.name) as bar,
    ):
        for index, frame in source.indexed(range(len(source))):
            path = source.files[index].path
            verbatim = source.rectify is None and path.suffix.lower() in (".jpg", ".jpeg")
            jpeg = path.read_bytes() if config.jpeg_quality is not None and verbatim else None
            bag.write(frame, frame.stamp_ns + offset_ns, jpeg)
            written += 1
            bar.update(index + 1 - bar.n)
        if not written:
            raise DataError(f"Not one image of {source.name} could be read.")
    return written
