"""The contract of programs on tflite-runtime, which LiteRT succeeded: Python 3.11 and numpy below 2 only.

It runs in an environment of its own (``make .venv-tflite-runtime``), where this suite's other tests cannot.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.unit.programs import test_contract

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-tflite-runtime" / "bin" / "python"


@pytest.mark.skipif(not PYTHON.exists(), reason="tflite-runtime has wheels for Python 3.11 only")
def test_tflite_runtime_keeps_the_contract_of_programs(tmp_path):
    kinds = {name: content for name, content in test_contract.files().items() if name != "onnx"}
    for name, content in kinds.items():
        (tmp_path / name).write_bytes(content)
    done = subprocess.run(
        [PYTHON, "-m", "pytest", "-p", "no:cacheprovider", test_contract.__file__],
        env={**os.environ, "PYTHONPATH": str(ROOT / "agent"), "MARRAM_CONTRACT_FILES": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout and "passed" in done.stdout
