"""The two slots: a power cut anywhere leaves a release that runs, and the operator's word goes first."""

import msgspec
import pytest
from marram.bundle.file import parse, read
from marram.errors import BundleError
from marram.releases.slots import Slots

from tests.support.releases import released
from tests.support.windows import SHOULDER, bundle


@pytest.fixture
def slots(tmp_path):
    return Slots(tmp_path / "slots", bundle(SHOULDER))


def install(slots, version, sequence):
    slot, written = slots.write(released(version))
    slots.make_current(slot, written, version, sequence)
    return slot


def again(slots):
    """The slots as a daemon finds them that starts anew."""
    return Slots(slots.folder, slots.configured)


def test_without_a_release_the_configured_bundle_runs(slots):
    assert slots.bundle() == (bundle(SHOULDER), SHOULDER)
    assert slots.current() is None
    assert slots.sequence == -1


def test_an_installed_release_runs_also_after_a_restart(slots):
    install(slots, "1", 5)
    running, path = again(slots).bundle()
    assert running.manifest.version == "1"
    assert read(path).digest == running.digest
    assert again(slots).sequence == 5


def test_releases_take_turns_in_the_two_slots(slots):
    assert [install(slots, str(number), number) for number in range(1, 5)] == ["a", "b", "a", "b"]


def test_a_power_cut_between_the_bundle_and_its_word_leaves_the_release_before(slots):
    install(slots, "1", 1)
    slots.write(released("2"))
    assert again(slots).bundle()[0].manifest.version == "1"


def test_a_power_cut_while_the_very_first_is_written_leaves_the_configured_bundle(slots):
    slots.write(released("1"))
    assert again(slots).bundle()[0].digest == bundle(SHOULDER).digest


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "another"])
def test_a_damaged_slot_gives_way_to_the_configured_bundle(slots, damage):
    slot = install(slots, "1", 1)
    path = slots.folder / f"{slot}.marram"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    match damage:
        case "flipped":
            path.write_bytes(content)
        case "cut":
            path.write_bytes(content[:1000])
        case "missing":
            path.unlink()
        case "another":
            path.write_bytes(released("2"))
    assert again(slots).bundle() == (bundle(SHOULDER), SHOULDER)


@pytest.mark.parametrize("word", [b"", b"{", b'{"slot": "c"}', b"\xff\xfe"])
def test_a_damaged_word_gives_way_to_the_configured_bundle(slots, word):
    install(slots, "1", 1)
    (slots.folder / "current.json").write_bytes(word)
    assert again(slots).bundle()[0].digest == bundle(SHOULDER).digest


def test_a_word_cannot_name_a_file_outside_the_slots(slots, tmp_path):
    slot = install(slots, "1", 1)
    word = msgspec.json.decode((slots.folder / "current.json").read_bytes())
    (tmp_path / "evil.marram").write_bytes((slots.folder / f"{slot}.marram").read_bytes())
    (slots.folder / "current.json").write_bytes(msgspec.json.encode({**word, "slot": "../evil"}))
    assert again(slots).bundle()[0].digest == bundle(SHOULDER).digest


def test_another_bundle_in_the_configuration_goes_before_the_release_and_older_ones_stay_older(slots):
    install(slots, "1", 7)
    new = parse(released("of the operator"), "new.marram")
    changed = Slots(slots.folder, new)
    assert changed.bundle()[0].digest == new.digest
    assert changed.current() is None
    assert changed.sequence == 7


def test_what_is_no_bundle_is_never_written(slots):
    with pytest.raises(BundleError):
        slots.write(b"no bundle")
    assert not list(slots.folder.glob("*")) if slots.folder.exists() else True
