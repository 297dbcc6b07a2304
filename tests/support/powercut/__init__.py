"""Power cuts of real devices: the processes killed at any call that changes their disk."""
