"""``dualrefine evaluate``: odometry, depth, covariance."""

from __future__ import annotations

import argparse

from dualrefine_ros.tools import evaluate_covariance, evaluate_depth, evaluate_odometry

TASKS = {"odometry": evaluate_odometry, "depth": evaluate_depth, "covariance": evaluate_covariance}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A subparser for each task."""
    subparsers = parser.add_subparsers(dest="task", required=True, metavar="|".join(TASKS))
    for name, module in TASKS.items():
        subparser = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)


def run(args: argparse.Namespace) -> int:
    """Run the chosen task."""
    return TASKS[args.task].run(args)
