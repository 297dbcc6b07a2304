"""The author's own model.py: run in its folder, and told with its line where it fails."""

import sys
from pathlib import Path

import pytest
from marram_cloud.projects.code import Code
from marram_cloud.projects.errors import ProjectError


def code(folder, text):
    (folder / "model.py").write_text(text)
    return Code(folder, "a model")


def test_what_stands_beside_it_is_found_and_nothing_of_the_process_changes(tmp_path):
    (tmp_path / "beside_the_model.py").write_text("NUMBER = 2\n")
    (tmp_path / "weights.txt").write_text("3")
    before = Path.cwd(), list(sys.path), list(sys.argv)
    made = code(
        tmp_path,
        "import os, sys\nfrom beside_the_model import NUMBER\n\n\ndef model():\n"
        "    weights = int(open('weights.txt').read())\n    os.chdir('/')\n"
        "    return NUMBER * weights, len(sys.argv)\n",
    ).made("model")
    assert made == (6, 1)
    assert (Path.cwd(), sys.path, sys.argv) == before


def test_dataclasses_find_their_own_module(tmp_path):
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n@dataclass\nclass Size:\n"
    )
    assert (
        code(tmp_path, f"{text}    one: int = 3\n\n\ndef model():\n    return Size().one\n").made("model")
        == 3
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "import sys\nsys.exit('--data is missing')\n",
            r"SystemExit: --data is missing \(model\.py, line 2",
        ),
        ("def model(:\n", "SyntaxError"),
        (
            "def model():\n    raise ValueError('one\\ntwo')\n",
            r"model\(\): ValueError: one \(model\.py, line 2",
        ),
        ("from math import nothing\n", r"ImportError: cannot .* \(model\.py, line 1: from math"),
        ("def model(width):\n    return width\n", r"model\(\): TypeError: .* argument: 'width'"),
        ("other = 1\n", r"should define model\(\) -> a model$"),
        ("model = 3\n", r"should define model\(\) -> a model, and model is a int"),
    ],
)
def test_what_is_wrong_with_it_is_told_with_its_file_and_line(tmp_path, text, words):
    with pytest.raises(ProjectError, match=words) as caught:
        code(tmp_path, text).made("model")
    assert str(caught.value).startswith(f"{tmp_path / 'model.py'}: ")
    assert "\n" not in str(caught.value)


def test_what_can_be_called_is_not_taken_for_the_function_that_gives_it(tmp_path):
    (tmp_path / "model.py").write_text("import string\nmodel = string.Formatter\n")
    with pytest.raises(ProjectError, match="and model is a type"):
        Code(tmp_path, "a model", type).made("model")


def test_a_folder_in_its_place_is_told(tmp_path):
    (tmp_path / "model.py").mkdir()
    with pytest.raises(ProjectError, match=r"model\.py: is no file; it should define model\(\) -> a model"):
        Code(tmp_path, "a model")
