"""``dualrefine train``: Lightning's command line around our recipe."""

from __future__ import annotations

import argparse

from dualrefine_ros.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything after ``train`` is Lightning's to read."""
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="...",
        help="fit --config config/train/small.yaml [--trainer.max_epochs 5 ...]; fit --help lists all",
    )


def run(args: argparse.Namespace) -> int:
    """Hand over to Lightning."""
    try:
        from dualrefine_ros.training.cli import main
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("dualrefine_ros"):
            raise
        raise ConfigError(
            f"Training needs the package '{error.name}': pip install 'dualrefine_ros[train]'."
        ) from error
    main(args.arguments)
    return 0
