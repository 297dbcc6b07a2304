"""Layers: what stands above what, how two become one, where paths begin, and where mistakes are told."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marram.config import layers
from marram.config.layers import Over
from marram.config.load import load, load_all
from marram.config.problems import InvalidConfigError
from marram.config.schema import Agent
from marram.errors import ConfigError

from tests.support.cli import marram
from tests.support.configs import HOST_BUNDLE, configurations, write

LEAST = f"sensors: [{{type: host, name: own}}]\nmodel: {{bundle: {HOST_BUNDLE}}}\n"


def files(folder: Path, **texts: str) -> Path:
    """Files by path below the folder (``__`` for ``/``), with ``.yaml``; the main one is ``main``."""
    for name, text in texts.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "main.yaml"


def problem(path: Path, over: Over | None = None) -> str:
    """The first line about the only problem."""
    with pytest.raises(InvalidConfigError) as caught:
        load(path, Agent, over=over)
    assert len(caught.value.problems) == 1, str(caught.value)
    return str(caught.value).splitlines()[0].replace(f"{path.parent}/", "")


def test_each_layer_stands_above_the_one_before(tmp_path):
    tags = "device: {{tags: [{0}]}}\nmodel: {{threads: {1}, queue: {1}, max_batch: {1}}}\n"
    path = files(
        tmp_path,
        boards__b=tags.format("board", 1) + "board: {name: b}\nwatch: {every: 1s}\nstream: {max_gap: 1s}\n",
        sites__s="extends: b\nmodel: {queue: 2, max_batch: 2}\nwatch: {every: 2s}\nstream: {max_gap: 2s}\n",
        main=f"extends: s\n{LEAST}"[:-2] + ", max_batch: 3}\nwatch: {every: 3s}\nstream: {max_gap: 3s}\n",
        conf__d="",
    )
    files(tmp_path / "conf.d", **{"20-b": "stream: {max_gap: 5s}\n", "10-a": "stream: {max_gap: 4s}\n"})
    (tmp_path / "conf.d" / "README").write_text("no layer: [\n")
    (tmp_path / "conf.d" / ".#30.yaml").write_text("no layer: [\n")
    config = load(path, Agent)
    assert (config.board.name, config.model.threads, config.model.queue, config.model.max_batch) == (
        "b",
        1,
        2,
        3,
    )
    assert (config.watch.every, config.stream.max_gap, config.device.tags) == (3, 5, ("board",))
    over = Over({"MARRAM__STREAM__MAX_GAP": "6s", "MARRAM__WATCH__EVERY": "6s"}, ("stream.max_gap=7s",))
    config = load(path, Agent, over=over)
    assert (config.watch.every, config.stream.max_gap) == (6, 7)


def test_bases_of_drop_ins_are_below_the_file_and_above_its_own_bases(tmp_path):
    path = files(
        tmp_path,
        boards__low="watch: {every: 1s, duty: 0.1}\nmodel: {threads: 1}\n",
        boards__high="watch: {every: 2s, duty: 0.2}\n",
        main=f"extends: low\n{LEAST}watch: {{duty: 0.3}}\n",
    )
    files(tmp_path / "conf.d", one="extends: high\n")
    config = load(path, Agent)
    assert (config.model.threads, config.watch.every, config.watch.duty) == (1, 2, 0.3)


def test_of_several_bases_the_later_one_stands_above_and_each_is_read_once(tmp_path):
    path = files(
        tmp_path,
        boards__a="watch: {every: 1s, duty: 0.1}\n",
        boards__b="extends: a\nwatch: {every: 2s}\n",
        main=f"extends: [b, a]\n{LEAST}",
    )
    loaded = load_all(path, Agent)
    assert (loaded.value.watch.every, loaded.value.watch.duty) == (2, 0.1)
    assert [Path(source.name).stem for source in loaded.merged.sources] == ["a", "b", "main"]


def test_a_name_is_looked_for_beside_the_file_above_it_and_in_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(layers, "SHIPPED", tmp_path / "shipped")
    path = files(
        tmp_path / "here",
        main=f"extends: [one, two, three, deep/four.yaml]\n{LEAST}",
        boards__one="model: {threads: 1}\n",
        deep__four="extends: ../boards/five.yml\nmodel: {max_batch: 4}\n",
    )
    (tmp_path / "here/boards/five.yml").write_text("learning: {holdout: 0.5}\n")
    files(tmp_path, sites__two="model: {queue: 2}\n", boards__one="model: {threads: 9}\n")
    files(tmp_path / "shipped", sites__three="watch: {every: 3s}\n")
    config = load(path, Agent)
    assert (config.model.threads, config.model.queue, config.watch.every) == (1, 2, 3)
    assert (config.model.max_batch, config.learning.holdout) == (4, 0.5)


def test_relative_paths_begin_at_the_folder_of_their_own_layer(tmp_path, monkeypatch):
    path = files(
        tmp_path / "etc",
        main=f"extends: ../lib/base.yaml\n{LEAST}device: {{state: state}}\n",
    )
    files(tmp_path / "lib", base="control: {socket: run/x.sock}\n")
    files(tmp_path / "etc/conf.d", one="outputs: [{type: jsonl, path: out.jsonl}]\n")
    config = load(path, Agent)
    assert config.device.state == tmp_path / "etc/state"
    assert config.control.socket == tmp_path / "etc/../lib/run/x.sock"
    assert config.outputs[0].path == tmp_path / "etc/conf.d/out.jsonl"
    monkeypatch.chdir(tmp_path)
    assert load(path, Agent, over=Over(sets=("device.state=here",))).device.state == tmp_path / "here"


# ---- how two become one


def merged(tmp_path: Path, base: str, above: str) -> Agent:
    return load(files(tmp_path, base=base, main=f"extends: ./base.yaml\n{above}"), Agent)


def test_a_list_replaces_the_list_below_and_an_empty_one_empties(tmp_path):
    base = LEAST + "device: {tags: [a, b]}\noutputs: [{type: stdout}]\n"
    config = merged(tmp_path, base, "device: {tags: [c]}\noutputs: []\n")
    assert (config.device.tags, config.outputs) == (("c",), ())


def test_sensors_of_one_name_are_merged_new_ones_added_and_some_taken_away(tmp_path):
    base = f"""
model: {{bundle: {HOST_BUNDLE}}}
sensors:
  - {{type: host, name: own, rate: 1}}
  - {{type: host, name: other, rate: 2}}
  - {{type: host, name: third, rate: 3}}
"""
    above = "sensors: [{name: other, rate: 9}, {type: host, name: new}, {name: third, remove: true}]\n"
    assert [(one.name, one.rate) for one in merged(tmp_path, base, above).sensors] == [
        ("own", 1), ("other", 9), ("new", 2),
    ]  # fmt: skip


def test_a_sensor_of_another_type_replaces_the_one_below_with_all_its_keys(tmp_path):
    base = LEAST.replace("name: own", "name: own, rate: 5")
    config = merged(tmp_path, base, "sensors: [{type: stdin, name: own, channels: [a]}]\n")
    assert (config.sensors[0].channels, config.sensors[0].name) == (("a",), "own")


def test_outputs_that_have_names_are_merged_like_sensors(tmp_path):
    base = LEAST + "outputs: [{type: stdout, name: out}, {type: jsonl, name: log, path: a}]\n"
    config = merged(tmp_path, base, "outputs: [{name: log, keep: 7}]\n")
    assert [(one.name, getattr(one, "keep", None)) for one in config.outputs] == [("out", None), ("log", 7)]


def test_a_key_with_nothing_under_it_leaves_what_is_below_and_a_tilde_takes_it_away(tmp_path):
    base = LEAST + "learning: {holdout: 0.5}\nlabels: {mqtt: {broker: mqtt://h, topic: t}}\n"
    config = merged(tmp_path, base, "learning:\nlabels: {mqtt: ~}\n")
    assert (config.learning.holdout, config.labels.mqtt) == (0.5, None)
    assert merged(tmp_path, base, "learning: ~\n").learning is None


def test_merge_keys_and_aliases_work_within_a_layer(tmp_path):
    base = "device: &d {log_level: debug}\n"
    config = merged(tmp_path, base + LEAST, "device: &e {tags: [x]}\nboard: {name: &n abc}\n")
    assert (config.device.log_level, config.device.tags, config.board.name) == ("debug", ("x",), "abc")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(configurations(), st.data())
def test_a_configuration_cut_into_layers_at_its_sections_is_the_same(tmp_path, tree, data):
    whole = load(files(tmp_path, main=write(tree).text), Agent, check_files=False)
    low = data.draw(st.sets(st.sampled_from(tree.names())))
    parts = [
        type(tree)([pair for pair in tree.pairs if (pair[0] in low) == below]) for below in (True, False)
    ]
    base, above = (write(part).text if part.pairs else "" for part in parts)
    path = files(tmp_path, base=base, main=f"extends: ./base.yaml\n{above if above.strip() else ''}")
    assert load(path, Agent, check_files=False) == whole


# ---- environment and command line


@pytest.mark.parametrize(
    ("name", "value", "look", "wanted"),
    [
        ("MARRAM__DEVICE__NAME", "x1", lambda c: c.device.name, "x1"),
        ("MARRAM__DEVICE__TAGS", "[a, b]", lambda c: c.device.tags, ("a", "b")),
        ("MARRAM__SENSORS__OWN__RATE", "7", lambda c: c.sensors[0].rate, 7),
        ("MARRAM__SENSORS__0__RATE", "7", lambda c: c.sensors[0].rate, 7),
        ("MARRAM__STREAM__CHANNELS__AX__MIN", "-5", lambda c: c.stream.channels["Ax"].min, -5),
        ("MARRAM__LEARNING__STORE__MAX_BYTES", "3MiB", lambda c: c.learning.store.max_bytes, 3 << 20),
        ("MARRAM__LEARNING", "", lambda c: c.learning.holdout, 0.2),
        ("MARRAM__CLOUD", "~", lambda c: c.cloud, None),
        ("MARRAM_DEVICE_NAME", "not ours", lambda c: c.device.name, "main"),
    ],
)
def test_an_environment_variable_sets_the_key_that_its_name_says(tmp_path, name, value, look, wanted):
    text = LEAST + "device: {name: main}\nstream: {channels: {Ax: {max: 5}}}\n"
    assert look(load(files(tmp_path, main=text), Agent, over=Over({name: value}))) == wanted


@pytest.mark.parametrize(
    "key", ["sensors.own.rate", "sensors[0].rate", "sensors.0.rate", '"sensors".own.rate']
)
def test_the_command_line_sets_a_key_and_names_items_of_lists_by_name_or_number(tmp_path, key):
    config = load(files(tmp_path, main=LEAST), Agent, over=Over(sets=(f"{key}=7",)))
    assert config.sensors[0].rate == 7


def test_the_commands_read_the_environment_and_the_options(tmp_path):
    path = files(tmp_path, main=LEAST + f"device: {{state: {tmp_path}}}\n")
    assert marram("check", "-c", path, "--set", "model.threads=2").returncode == 0
    done = marram("check", "-c", path, "--set", "model.threads=0", env={"MARRAM__WATCH__DUTY": "2"})
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "environment MARRAM__WATCH__DUTY: watch.duty: expected a number above 0 and of at most 1, "
        "found the number 2",
        "--set model.threads: model.threads: expected a whole number from 1 to 256, found the number 0",
    ]
    done = marram("run", "-c", path, "--set", "model.bundle=nowhere")
    assert (done.returncode, "--set model.bundle: model.bundle: the file" in done.stderr) == (1, True)


# ---- mistakes


def test_a_mistake_is_told_at_the_file_and_line_of_its_layer(tmp_path):
    path = files(
        tmp_path,
        boards__b="# a board\nmodel: {threads: many}\n",
        main=f"extends: b\n{LEAST}watch: {{x: 1}}\n",
    )
    with pytest.raises(InvalidConfigError) as caught:
        load(path, Agent)
    heads = [line for line in str(caught.value).splitlines() if line.startswith("/")]
    assert heads[0].startswith(f"{tmp_path}/boards/b.yaml:2:18: model.threads: expected a whole number")
    assert heads[1].startswith(f"{path}:4:9: watch.x: this key is not known")
    assert "    2 | model: {threads: many}\n      |                  ^" in str(caught.value)


def test_what_no_layer_has_is_told_at_the_main_file(tmp_path):
    path = files(tmp_path, boards__b="model: {threads: 1}\n", main="# main\nextends: b\n")
    files(tmp_path / "conf.d", a="watch: {every: 1s}\n")
    with pytest.raises(InvalidConfigError) as caught:
        load(path, Agent)
    assert [(one.source.name, one.path) for one in caught.value.problems] == [
        (str(path), ("sensors",)),
        (str(path), ("model", "bundle")),
    ]


def test_a_circle_of_bases_is_told_with_its_way(tmp_path):
    path = files(tmp_path, main=f"extends: ./a.yaml\n{LEAST}", a="extends: b.yaml\n", b="\nextends: a.yaml\n")
    assert problem(path) == ("b.yaml:2:10: extends: a file may not extend itself: a.yaml -> b.yaml -> a.yaml")
    path = files(tmp_path, main=f"extends: main.yaml\n{LEAST}")
    assert "a file may not extend itself: main.yaml -> main.yaml" in problem(path)


def test_thousands_of_bases_are_refused(tmp_path):
    names = [f"b{number}" for number in range(100)]
    path = files(
        tmp_path, main=f"extends: [{', '.join(names)}]\n{LEAST}", **{f"boards__{n}": "" for n in names}
    )
    with pytest.raises(InvalidConfigError, match="expected at most 64 files, found more"):
        load(path, Agent)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("raspbery-pi", "there is no board or site 'raspbery-pi'; did you mean 'raspberry-pi'?"),
        ("zzz", "there is no board or site 'zzz'; looked in boards"),
        ("./x.yaml", "the file x.yaml does not exist"),
        ("~nobody-of-that-name/x.yaml", "the file ~nobody-of-that-name/x.yaml cannot be looked for"),
        ("5", "expected the name or the path of a file, or a list of them, found the number 5"),
        (
            "[raspberry-pi, []]",
            "expected the name or the path of a file, or a list of them, found an empty list",
        ),
        ("{a: b}", "expected the name or the path of a file, or a list of them, found a mapping"),
        ("''", "expected the name or the path of a file"),
    ],
)
def test_a_base_that_cannot_be_is_told_with_what_is_there(tmp_path, key, words):
    path = files(tmp_path, main=f"extends: {key}\n{LEAST}", **{"boards__raspberry-pi": "board: {name: pi}\n"})
    assert problem(path).startswith("main.yaml:1:")
    assert words in problem(path)


@pytest.mark.parametrize(
    ("over", "words"),
    [
        (Over(sets=("device.name",)), "--set device.name: expected KEY=VALUE such as device.name=press-07"),
        (Over(sets=("=x",)), "--set : expected KEY=VALUE"),
        (Over(sets=("a..b=x",)), "--set a..b: expected KEY=VALUE"),
        (Over(sets=("device.=x",)), "--set device.: expected KEY=VALUE"),
        (Over(sets=("sensors[x].rate=1",)), "--set sensors[x].rate: expected KEY=VALUE"),
        (Over(sets=("sensors.onw.rate=1",)), "sensors.onw: the list has no such item; did you mean 'own'?"),
        (Over(sets=("sensors[7].rate=1",)), "sensors.7: the list has no such item; the names are own"),
        (Over(sets=("device.tags.3=1",)), "device.tags.3: the list has no such item; it has 1"),
        (Over(sets=("device.name=a: b: c",)), "--set device.name: this is not valid YAML"),
        (Over(sets=("device.name.x=1",)), "device.name: expected text such as"),
        (Over(sets=("extends=b",)), "--set extends: extends: only a file can say this"),
        (Over({"MARRAM__": "1"}), "environment MARRAM__: expected a name such as MARRAM__DEVICE__NAME"),
        (Over({"MARRAM__DEVICE__": "1"}), "environment MARRAM__DEVICE__: expected a name such as"),
        (Over({"MARRAM__DEVICE__NAME": "no"}), 'which YAML reads as a boolean (put it in quotes: "no")'),
        (
            Over({"MARRAM__DEVICE__COLOUR": "1"}),
            "environment MARRAM__DEVICE__COLOUR: device.colour: this key",
        ),
        (Over({"MARRAM__VERSION": "2"}), "environment MARRAM__VERSION: version: only a file can say this"),
        (Over({"MARRAM__DEVICE__NAME": "[" * 99}), "nested more than 64 levels deep"),
        (Over({"MARRAM__DEVICE": "{name: a, name: b}"}), "this key stands twice, first at line 1"),
    ],
)
def test_a_setting_that_cannot_be_is_told_with_its_name(tmp_path, over, words):
    path = files(tmp_path, main=LEAST + "device: {name: main, tags: [a]}\n")
    assert words in problem(path, over)


def test_names_that_stand_twice_in_one_layer_do_not_vanish_by_merging(tmp_path):
    twice = "{type: host, name: own}, {type: host, name: own}"
    base = f"model: {{bundle: {HOST_BUNDLE}}}\nsensors: [{twice}]\n"
    words = "expected a name of its own, found 'own' a second time"
    assert words in problem(
        files(tmp_path, a=base, main="extends: ./a.yaml\nsensors: [{name: own, rate: 2}]\n")
    )
    with pytest.raises(InvalidConfigError, match=words):
        load(files(tmp_path, a=LEAST, main=f"extends: ./a.yaml\nsensors: [{twice}]\n"), Agent)


def test_a_sensor_that_is_not_there_cannot_be_taken_away(tmp_path):
    path = files(tmp_path, a=LEAST, main="extends: ./a.yaml\nsensors: [{name: onw, remove: true}]\n")
    assert problem(path).startswith(
        "main.yaml:2:11: sensors[0]: there is no 'onw' below to take away; did you mean 'own'?"
    )


def test_keys_that_stand_twice_are_told_in_every_layer_with_the_other_mistakes(tmp_path):
    path = files(
        tmp_path,
        a="device: {name: x, name: y}\n",
        main=f"extends: ./a.yaml\n{LEAST}watch: {{every: 1s, every: soon, duty: 5}}\n",
    )
    with pytest.raises(InvalidConfigError) as caught:
        load(path, Agent)
    assert [(Path(one.source.name).stem, one.path) for one in caught.value.problems] == [
        ("a", ("device", "name")), ("main", ("watch", "every")), ("main", ("watch", "duty")),
    ]  # fmt: skip


def test_drop_ins_that_cannot_be_read_are_refused(tmp_path):
    path = files(tmp_path, main=LEAST)
    (tmp_path / "conf.d" / "a.yaml").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"a\.yaml is a folder"):
        load(path, Agent)
    (tmp_path / "conf.d" / "a.yaml").rmdir()
    os.mkfifo(tmp_path / "conf.d" / "a.yaml")
    with pytest.raises(ConfigError, match=r"a\.yaml is no file"):
        load(path, Agent)
    (tmp_path / "conf.d" / "a.yaml").unlink()
    (tmp_path / "conf.d" / "b.yaml").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"b\.yaml does not exist"):
        load(path, Agent)
