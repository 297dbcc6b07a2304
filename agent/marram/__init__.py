"""Marram's agent: everything that runs on a device."""

__version__ = "0.1.0"

RELEASED = 1795478400.0
"""When this version was made, Unix seconds (2026-11-24): no device that runs it lives before that."""
