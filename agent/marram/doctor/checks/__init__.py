"""One file a check: a module docstring, and ``check(machine)``, which yields findings.

Any installed distribution may add checks of its own in the entry point group ``marram.checks``.
"""
