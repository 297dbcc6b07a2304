"""``marram-cloud workshop trees``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

OUTPUT = "the bundle (default: NAME.marram in the project's folder)"


def add_command(workshop: Any) -> None:  # noqa: ANN401 - argparse's own type is private
    """The command's arguments. workshop: what ``add_subparsers`` gave."""
    parser = workshop.add_parser("trees", help="Make a bundle of a fitted forest, or of room for one.")
    parser.set_defaults(command=_build)
    parser.add_argument("project", type=Path, help="folder with project.yaml")
    parser.add_argument(
        "model",
        type=Path,
        nargs="?",
        help="a file *.skops, or a folder that Spark ML saved (default: the project's model.py; without one, "
        "a forest that a fleet is to learn)",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=OUTPUT)


def _build(options: argparse.Namespace) -> int:
    from marram_cloud.trees.build import build

    print(build(options.project, options.model, options.output))
    return 0
