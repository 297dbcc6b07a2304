"""What the daemon costs before it does anything: nothing heavy is imported."""

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "onnx",
    "onnxscript",
    "pandas",
    "pyarrow",
    "matplotlib",
    "starlette",
    "iotcore",
    "marram_cloud",
    # For the short-lived child that verifies releases.
    "tuf",
    "securesystemslib",
    "urllib3",
)


def imported(code):
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules, sep='\\n')"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["marram.daemon", "marram.cli", "marram.learning.trainer", "marram.config.schema"]
)
def test_the_agent_imports_nothing_heavy(module):
    modules = imported(f"import {module}")
    assert module in modules
    assert {name for name in HEAVY if name in modules} == set()


def test_asking_for_the_status_loads_no_runtime():
    modules = imported("from marram.control import ask\nfrom marram.status import text")
    assert not {"onnxruntime", "numpy", "paho"} & modules
