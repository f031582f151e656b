"""``dualrefine``: one program, a subcommand per job.

A subcommand is a module of this package with ``add_arguments(parser)`` and ``run(args) -> int``; it is
imported only when it is called, so that ``dualrefine --help`` answers at once.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from dualrefine_ros import __version__
from dualrefine_ros.errors import DualRefineError
from dualrefine_ros.waiting import sleep_soon

# name: (module of dualrefine_ros.tools, one line of help)
COMMANDS = {
    "bench": ("bench", "measure the speed and memory of the network on this machine"),
    "demo": ("demo", "play the bundled clip through the ROS node and draw what comes back"),
    "evaluate": ("evaluate", "score odometry or depth the way the literature does"),
    "export": (
        "export",
        "turn a checkpoint of a training run into one that node and replay load, or into ONNX",
    ),
    "import": ("import_checkpoint", "turn the published depth_pose.pth into a checkpoint of ours"),
    "info": ("info", "say what a checkpoint holds"),
    "kitti-to-bag": ("kitti_to_bag", "write a KITTI sequence as a ROS 2 bag"),
    "train": ("train", "train the network on recordings, by Lightning"),
    "replay": ("replay", "run the engine over a recording and leave a folder of results"),
    "soak": ("soak", "torment the ROS node for half an hour and report how it bears it"),
    "splits": ("splits", "print the lists of KITTI frames the literature trains and tests on"),
}

OUTPUT_CLOSED, INTERRUPTED = 141, 130  # exit statuses, as the shell's


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, []):
            return action.help
        return super()._get_help_string(action)


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser; only ``command``'s own arguments are filled in (all are, where it is None)."""
    parser = argparse.ArgumentParser(
        prog="dualrefine", description="Monocular visual odometry and depth by DualRefine."
    )
    parser.add_argument("--version", action="version", version=f"dualrefine {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module_name, help_line) in COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=help_line,
            description=help_line[0].upper() + help_line[1:] + ".",
            formatter_class=_HelpFormatter,
        )
        if command in (None, name):
            module = import_module(f"dualrefine_ros.tools.{module_name}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; a DualRefineError becomes one sentence on stderr and exit status 2.

    Output that nobody reads any more (``dualrefine ... | head``) ends the program quietly.
    """
    sleep_soon()
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((a for a in arguments if not a.startswith("-")), "")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may hold what it cannot write
    try:
        args = build_parser(command).parse_args(arguments)  # imports for seconds: Ctrl-C may come by now
        status = int(args.run(args) or 0)
        sys.stdout.flush()  # a disk that is full shows now, or when nobody can say so any more
        return status
    except BrokenPipeError:
        return OUTPUT_CLOSED
    except DualRefineError as error:
        print(f"dualrefine {command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder without permission: the path and the reason say it all
        print(
            f"dualrefine {command}: {error.filename or 'The output'}: {error.strerror or error}.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(f"dualrefine {command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        _flush_or_drop()


def _flush_or_drop() -> None:
    """Print what is printable: at its own end Python would complain of the rest in words of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
