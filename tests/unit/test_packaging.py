"""What the packages leave out of other people's distributions is not needed by what runs from them."""

import fnmatch
import importlib.util
import subprocess
import sys
from pathlib import Path, PurePath

ROOT = Path(__file__).parents[2]

# All that quantises a release, and what is imported only when it does.
_RELEASE = """
import sys
import marram_cloud.releases.build, marram_cloud.releases.cli, marram_cloud.litert.choosing
import marram_cloud.litert.template, marram_cloud.cli
from ai_edge_quantizer import quantizer
for module in list(sys.modules.values()):
    if getattr(module, "__file__", None): print(module.__file__)
"""


def recipes():
    name = "recipes"
    spec = importlib.util.spec_from_file_location(name, ROOT / "packaging/deb/recipes.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_aggregator_from_its_package_can_make_releases_in_both_forms():
    found = subprocess.run(
        [sys.executable, "-I", "-c", _RELEASE], capture_output=True, text=True, check=True
    ).stdout
    site = next(line for line in found.splitlines() if "/site-packages/" in line).split("/site-packages/")[0]
    imported = {
        PurePath(line).relative_to(f"{site}/site-packages")
        for line in found.splitlines()
        if line.startswith(f"{site}/site-packages/")
    }
    assert any(one.parts[0] == "ai_edge_quantizer" for one in imported)
    read = recipes()
    recipe = read.AGGREGATOR
    assert "cloud-tflite" in recipe.extras
    globs = [*(one for one in read.UNUSED if one not in recipe.reads), *recipe.unused]
    lacking = [
        (str(file), glob)
        for file in imported
        for glob in globs
        if any(fnmatch.fnmatch(str(part), glob) for part in (file, *file.parents))
    ]
    assert lacking == []
