"""Outputs: where predictions go. One file a sink; ``output`` is the seam."""
