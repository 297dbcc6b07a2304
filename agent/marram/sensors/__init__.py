"""Sensors: where samples come from. One file a source; ``sensor`` is the seam."""
