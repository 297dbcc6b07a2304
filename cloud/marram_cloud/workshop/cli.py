"""The commands below ``marram-cloud workshop``: one function a command, no logic."""

from __future__ import annotations

import argparse
from pathlib import Path

from marram_cloud.trees import cli as trees

_INT8 = ("auto", "dynamic", "static", "integer", "full-integer")


def _build(options: argparse.Namespace) -> int:
    from marram_cloud.workshop.budget import Budget
    from marram_cloud.workshop.build import build
    from marram_cloud.workshop.compress import compress

    budget = Budget(options.max_bytes, options.max_latency_us, options.max_accuracy_loss)
    tflite = options.tflite_int8 or options.tflite
    if budget or options.report is not None:
        built = compress(
            options.project, options.output, budget, options.report, options.epochs, tflite=tflite
        )
    else:
        built = build(options.project, options.output, tflite=tflite)
    print(built)
    return 0


def _keras(options: argparse.Namespace) -> int:
    from marram_cloud.workshop.keras_bundle import build_keras

    print(build_keras(options.project, options.output, options.int8))
    return 0


def add_commands(workshop: argparse.ArgumentParser) -> None:
    """Add the commands to the parser of ``workshop``."""
    commands = workshop.add_subparsers(required=True, metavar="COMMAND")
    built = commands.add_parser("build", help="Trace a PyTorch project into a bundle.")
    built.set_defaults(command=_build)
    built.add_argument("project", type=Path, help="folder with project.yaml, model.py and calibration.npz")
    built.add_argument("-o", "--output", type=Path, metavar="FILE", help=trees.OUTPUT)
    built.add_argument(
        "--tflite", action="store_true",
        help="with a form for LiteRT (needs litert-torch: docs/models.md)",
    )  # fmt: skip
    built.add_argument(
        "--tflite-int8", metavar="HOW", choices=_INT8,
        help="the same, in int8 of this kind instead of that in project.yaml",
    )  # fmt: skip
    built.add_argument("--max-bytes", type=int, metavar="N", help="of the program that infers")
    built.add_argument(
        "--max-latency-us", type=float, metavar="N", help="of one window, median, on this machine"
    )
    built.add_argument(
        "--max-accuracy-loss", type=float, metavar="X",
        help="against the unpruned float model; 0.01 is one window in a hundred (needs evaluation.npz)",
    )  # fmt: skip
    built.add_argument(
        "--epochs", type=int, default=20, metavar="N",
        help="passes over training.npz at each training of a search for a budget (20)",
    )  # fmt: skip
    built.add_argument(
        "--report", type=Path, metavar="FOLDER", help="write report.html and report.json there"
    )
    trees.add_command(commands)
    keras = commands.add_parser("keras", help="Convert a Keras project into a bundle that runs in LiteRT.")
    keras.set_defaults(command=_keras)
    keras.add_argument("project", type=Path, help="folder with project.yaml, model.keras and calibration.npz")
    keras.add_argument("-o", "--output", type=Path, metavar="FILE", help=trees.OUTPUT)
    keras.add_argument(
        "--int8", metavar="HOW", choices=_INT8, help="in int8 of this kind instead of that in project.yaml"
    )
