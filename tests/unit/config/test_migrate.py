"""Files of an older version: refused where they say what changed, and rewritten with their comments."""

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.config.load import load
from marram.config.migrate import migrate
from marram.config.problems import InvalidConfigError
from marram.config.schema import Agent
from marram.errors import ConfigError

from tests.support.cli import marram
from tests.support.configs import HOST_BUNDLE, Keys, Style, configurations, keys, styles, write

PATH = Path("marram.yaml")
LEAST = f"sensors: [{{type: host, name: own}}]\nmodel: {{bundle: {HOST_BUNDLE}}}\n"

CASES = {
    "block": (
        "# mine\ndevice: {name: a}\nlearning:\n  governor:\n    # by others\n    max_cpu: 60\n"
        "    max_temperature: 75 # the case gets hot\n    on_battery: true\n",
        "# mine\nversion: 2\ndevice: {name: a}\nlearning:\n  governor:\n    # by others\n    max_cpu: 60\n"
        "    on_battery: true\nwatch:\n  training_below: 75 # the case gets hot\n",
    ),
    "the only key": (
        "learning:\n  governor:\n    max_temperature: 75\nlabels:\n",
        "version: 2\nlearning:\n  governor:\nlabels:\nwatch:\n  training_below: 75\n",
    ),
    "flow, first": (
        "learning: {governor: {max_temperature: 75, max_cpu: 60}} # x\n",
        "version: 2\nlearning: {governor: {max_cpu: 60}} # x\nwatch:\n  training_below: 75\n",
    ),
    "flow, last": (
        "learning: { governor: { max_cpu: 60, max_temperature: 75 } }\n",
        "version: 2\nlearning: { governor: { max_cpu: 60 } }\nwatch:\n  training_below: 75\n",
    ),
    "flow, alone": (
        "learning: {governor: {max_temperature: 75}}\n",
        "version: 2\nlearning: {governor: {}}\nwatch:\n  training_below: 75\n",
    ),
    "all in flow": (
        "{learning: {governor: {max_temperature: 75}}}\n",
        "{version: 2, learning: {governor: {}}, watch: { training_below: 75 }}\n",
    ),
    "a watch in block": (
        "watch:\n    # often\n    every: 1s\nlearning:\n  governor:\n    max_temperature: 75 # hot\n",
        "version: 2\nwatch:\n    # often\n    training_below: 75 # hot\n    every: 1s\n"
        "learning:\n  governor:\n",
    ),
    "a watch in flow": (
        "watch: {every: 1s}\nlearning:\n  governor:\n    max_temperature: 75\n",
        "version: 2\nwatch: { training_below: 75,every: 1s}\nlearning:\n  governor:\n",
    ),
    "an empty watch": (
        "watch: # nothing yet\nlearning: {governor: {max_temperature: 75}}\n",
        "version: 2\nwatch: # nothing yet\n  training_below: 75\nlearning: {governor: {}}\n",
    ),
    "an empty watch at the end": (
        "learning: {governor: {max_temperature: 75}}\nwatch:",
        "version: 2\nlearning: {governor: {}}\nwatch:\n  training_below: 75\n",
    ),
    "no line end": (
        "learning:\n  governor:\n    max_temperature: 75",
        "version: 2\nlearning:\n  governor:\nwatch:\n  training_below: 75\n",
    ),
    "line ends of Windows": (
        "learning:\r\n  governor:\r\n    max_temperature: 75\r\n    max_cpu: 5\r\n",
        "version: 2\r\nlearning:\r\n  governor:\r\n    max_cpu: 5\r\nwatch:\r\n  training_below: 75\r\n",
    ),
    "marks of a document": (
        "%YAML 1.1\n---\nlearning:\n  governor:\n    max_temperature: 75\n...\n",
        "%YAML 1.1\n---\nversion: 2\nlearning:\n  governor:\nwatch:\n  training_below: 75\n...\n",
    ),
    "more than can be": (
        "learning:\n  governor:\n    max_temperature: 1000\n",
        "version: 2\nlearning:\n  governor:\nwatch:\n  training_below: 150\n",
    ),
    "said to be of version 1": (
        "version: 1 # old\ndevice: {name: a}\n",
        "version: 2 # old\ndevice: {name: a}\n",
    ),
    "nothing that changed": ("# a\n\ndevice: {name: a}\n", "# a\n\nversion: 2\ndevice: {name: a}\n"),
    "empty": ("# nothing\n", "# nothing\nversion: 2\n"),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after"), CASES.values(), ids=CASES)
def test_a_file_is_rewritten_with_its_comments_and_its_layout(before, after):
    found = migrate(PATH, before)
    # A comment above the first key of a section stays there; the new key may come behind it.
    assert found.after == after
    assert migrate(PATH, found.after).after == found.after
    assert found.diff()
    assert not migrate(PATH, found.after).diff()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning: {governor: &g {max_cpu: 5, max_temperature: 75}}\nx: *g\n", "by hand"),
        ("learning:\n  governor:\n    <<: {max_temperature: 75}\n", "by an alias or a merge"),
        ("a: &a {governor: {max_temperature: 75}}\nlearning: *a\n", "by hand"),
        ("learning: {governor: {max_temperature: [75]}}\n", "holds no number"),
        ("learning: {governor: {max_temperature: 75}}\nwatch: {training_below: 5}\n", "is there already"),
        ("learning: {governor: {max_temperature: 75}}\nwatch: ~\n", "watch is no section"),
        ("learning: {governor: {max_temperature:\n  75}}\n", "on several lines"),
    ],
)
def test_what_needs_a_person_is_left_as_it_is(text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        migrate(PATH, text)
    assert str(caught.value).startswith("marram.yaml: ")


@settings(max_examples=80, deadline=None)
@given(configurations(), styles(), st.integers(-20, 150), st.booleans(), st.booleans())
def test_however_a_file_is_written_it_says_the_same_afterwards(tree, style, degrees, watched, first):
    """Or it is left to a person."""
    if "learning" not in tree.names():
        tree.put("learning", Keys())
    if "governor" not in tree["learning"].names():
        tree["learning"].put("governor", Keys())
    governor = tree["learning"]["governor"]
    governor.pairs.insert(0 if first else len(governor.pairs), ("max_temperature", str(degrees)))
    if watched:
        tree.put("watch", keys(every="2s"))
    before = write(tree, style).text
    try:
        after = migrate(PATH, before).after
    except ConfigError as error:
        assert "by hand" in str(error)
        return
    wanted = yaml.safe_load(before)
    assert wanted["learning"]["governor"].pop("max_temperature") == degrees
    wanted.setdefault("watch", {})["training_below"] = degrees
    found = yaml.safe_load(after)
    found["learning"]["governor"] = found["learning"]["governor"] or {}
    assert found == wanted | {"version": 2}
    assert sum("#" in line for line in after.splitlines()) == sum("#" in line for line in before.splitlines())


@given(st.text(max_size=60))
def test_any_text_is_rewritten_or_refused(text):
    with contextlib.suppress(ConfigError):
        assert migrate(PATH, migrate(PATH, text).after).diff() == ""


# ---- refusing, and the command


def test_an_old_file_is_refused_with_what_to_do_and_never_silently_changed(tmp_path):
    path = tmp_path / "marram.yaml"
    path.write_text(f"{LEAST}learning:\n  governor: {{max_temperature: 75}}\n")
    with pytest.raises(InvalidConfigError) as caught:
        load(path, Agent)
    assert str(caught.value).splitlines()[0] == (
        f"{path}:4:14: learning.governor.max_temperature: this key is watch.training_below since version 2: "
        f"run `marram config migrate {path}`"
    )


def test_an_old_file_that_uses_nothing_that_changed_is_taken(tmp_path):
    path = tmp_path / "marram.yaml"
    for version in ("", "version: 1\n", "version: 2\n"):
        path.write_text(version + LEAST)
        assert load(path, Agent).sensors


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("3", "expected a whole number from 1 to 2, found the number 3; version 3 needs a newer Marram"),
        ("0", "expected a whole number from 1 to 2, found the number 0"),
        ("'2'", 'expected a whole number from 1 to 2, found the text "2"'),
        ("[2]", "expected a whole number from 1 to 2, found a list of 1"),
    ],
)
def test_a_version_that_is_not_known_is_refused(tmp_path, version, words):
    path = tmp_path / "marram.yaml"
    path.write_text(f"version: {version}\n{LEAST}")
    with pytest.raises(InvalidConfigError) as caught:
        load(path, Agent)
    assert str(caught.value).splitlines()[0] == f"{path}:1:10: version: {words}"


def test_the_command_shows_what_would_change_in_every_layer_and_writes_only_when_told_to(tmp_path):
    path, base, drop_in = tmp_path / "marram.yaml", tmp_path / "boards/b.yaml", tmp_path / "conf.d/10.yaml"
    old = "learning: {governor: {max_temperature: 75}}\n"
    for file, text in ((base, "version: 2\n"), (drop_in, old), (path, f"extends: b\n{LEAST}")):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    path.chmod(0o640)
    done = marram("config", "migrate", "-c", path)
    assert done.returncode == 0, done.stderr
    assert f"--- {path}\n+++ {path} (version 2)\n@@" in done.stdout
    assert f"--- {drop_in}\n" in done.stdout
    assert (
        "-learning: {governor: {max_temperature: 75}}\n+version: 2\n+learning: {governor: {}}\n"
        in done.stdout
    )
    assert done.stdout.endswith("not written: run it again with --write\n")
    assert drop_in.read_text() == old
    assert marram("check", "-c", path).returncode == 1

    done = marram("config", "migrate", "-c", path, "--write")
    assert f"{drop_in}: written; the old one is {drop_in}.old\n" in done.stdout
    assert Path(f"{drop_in}.old").read_text() == old
    assert load(path, Agent).watch.training_below == 75
    assert (path.stat().st_mode & 0o777, Path(f"{path}.old").stat().st_mode & 0o777) == (0o640, 0o640)
    assert sorted(one.name for one in (tmp_path / "conf.d").iterdir()) == ["10.yaml", "10.yaml.old"]
    assert marram("config", "migrate", "-c", path).stdout == (
        "nothing to do: the configuration is of this version\n"
    )


def test_one_file_can_be_migrated_by_its_name_and_a_link_stays_a_link(tmp_path):
    real, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    real.write_text("learning: {governor: {max_temperature: 75}}\n")
    Path(f"{real}.old").write_text("older still")
    link.symlink_to(real)
    done = marram("config", "migrate", link, "--write")
    assert done.returncode == 0, done.stderr
    assert link.is_symlink()
    assert "training_below: 75" in real.read_text()
    assert Path(f"{real}.old").read_text() == "older still"
    assert Path(f"{real}.old.1").read_text() == "learning: {governor: {max_temperature: 75}}\n"
    assert marram("config", "migrate", tmp_path / "nowhere.yaml").returncode == 1


def test_the_written_styles_differ():
    """The property above is of use only if it sees block and flow."""
    tree = keys(learning=keys(governor=keys(max_temperature="5")))
    assert write(tree).text != write(tree, Style(flow=lambda: True)).text
