from pathlib import Path


def write(figures, path):
    path.write_text("x")
