"""Marram's agent: everything that runs on a device."""

__version__ = "0.1.0"
