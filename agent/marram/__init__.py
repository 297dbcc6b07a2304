"""Marram's agent: everything that runs on a device.

onnxruntime's telemetry, on by default in its Linux wheels from 1.29 on, is off in every process that imports
this package, and in all of their children.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"

RELEASED = 1795478400.0
"""When this version was made, Unix seconds (2026-11-24): no device that runs it lives before that."""
