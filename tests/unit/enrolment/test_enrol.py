"""``marram enrol`` with a server over real TLS: what it makes and refuses, and what no power cut breaks."""

import json
import shutil

import pytest
from marram.enrolment import enrol as enrolling
from marram.enrolment.enrol import Wanted, enrol
from marram.enrolment.est import EnrolmentError, UnreachableError
from marram.errors import IdentityError
from marram.link.identity import load

from tests.support.cli import marram
from tests.support.cuts import cut_everywhere
from tests.support.est import ROOT, EstServer
from tests.support.identities import fleet, stranger


@pytest.fixture
def server():
    with EstServer(fleet()) as one:
        yield one


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "identity"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(enrolling, "full_jitter", lambda longest: 0.01)


def wanted(server, folder, **changes):
    values = {"url": server.url, "token": server.token("device-1"), "name": "device-1", "folder": folder}
    return Wanted(**values | {"patience": 5.0} | changes)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_the_command_makes_an_identity_and_never_overwrites_one(server, folder):
    arguments = ["enrol", "--url", server.url, "--name", "device-1", "--identity", folder, "--token"]
    done = marram(*arguments, server.token("device-1"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "device-1: enrolled in fleet 'fleet', region 'region', until 20" in done.stdout
    identity = load(folder)
    assert identity.subject.name == "device-1"
    assert identity.enrolment.url == server.url
    assert (folder / "device.key").stat().st_mode & 0o777 == 0o600
    assert (folder / "root.json").read_bytes() == ROOT
    assert sorted(contents(folder)) == ["ca.crt", "device.crt", "device.key", "enrolment.json", "root.json"]

    before, asked = contents(folder), len(server.requests)
    again = marram(*arguments, server.token("device-1"))
    assert again.returncode == 1
    assert f"{folder}: holds an identity already" in again.stderr
    assert (contents(folder), len(server.requests)) == (before, asked)


def test_a_fleet_without_releases_gives_no_root_and_the_command_says_so(folder):
    with EstServer(fleet(), root=None) as server:
        token = server.token("device-1")
        done = marram(
            "enrol", "--url", server.url, "--name", "device-1", "--identity", folder, "--token", token
        )
    assert done.returncode == 0
    assert "cannot receive releases" in done.stdout
    assert not (folder / "root.json").exists()
    assert not load(folder).root.exists()


def test_a_token_is_never_shown_to_a_server_of_another_fleet(server, folder):
    with EstServer(stranger()) as other, pytest.raises(EnrolmentError, match="not the server of the fleet"):
        enrol(wanted(server, folder, url=other.url), print)
    assert other.requests == [("/.well-known/est/cacerts", None)]


def test_a_server_under_a_name_that_its_certificate_lacks_is_not_believed(server, folder):
    with pytest.raises(EnrolmentError, match="cannot be believed") as error:
        enrol(wanted(server, folder, url=f"https://127.0.0.1:{server.port}"), print)
    assert "IP address mismatch" in str(error.value)
    assert all(authorization is None for _, authorization in server.requests)


def test_a_bad_network_is_tried_again_and_a_lost_answer_costs_no_second_token(server, folder):
    server.faults = ["unavailable", "lost", "lost"]
    said = []
    enrol(wanted(server, folder), said.append)
    assert load(folder).subject.name == "device-1"
    assert len(server.issued) == 1
    assert len(said) == 3
    assert "503 busy; trying again" in said[0]
    assert "does not answer" in said[1]


def test_a_server_that_stays_away_is_given_up_after_the_patience_and_the_key_is_kept(server, folder):
    away = wanted(server, folder, url="https://localhost:1", patience=0.05)
    with pytest.raises(UnreachableError, match="https://localhost:1: does not answer"):
        enrol(away, lambda text: None)
    key = (folder / "device.key").read_bytes()
    enrol(wanted(server, folder), print)
    assert (folder / "device.key").read_bytes() == key


def test_a_refusal_is_shown_in_the_servers_words_and_not_repeated(server, folder):
    with pytest.raises(EnrolmentError, match="401 the token was used, or is another device's"):
        enrol(wanted(server, folder, token=server.token("device-2")), pytest.fail)
    assert not (folder / "device.crt").exists()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("garbage", "is it an EST server"),
        ("other key", "for another key"),
        ("stranger", "of another authority"),
        ("other name", "not of the device 'device-1'"),
    ],
)
def test_a_certificate_that_is_not_this_devices_is_not_taken(server, folder, fault, words):
    server.faults = [fault]
    with pytest.raises(EnrolmentError, match=words):
        enrol(wanted(server, folder), pytest.fail)
    assert not (folder / "device.crt").exists()


def test_a_root_that_is_none_stops_it_before_the_token_is_used(folder):
    with EstServer(fleet(), root=b'{"signed": {"_type": "targets"}}') as server:
        with pytest.raises(EnrolmentError, match="is not a TUF root"):
            enrol(wanted(server, folder), print)
        assert server.issued == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token": "mrm1_secret_1234"}, "no enrolment token"),
        ({"url": "http://localhost"}, 'such as "https://host:8443"'),
        ({"name": "a/b"}, "device name 'a/b' is not usable"),
        ({"url": "https://user:secret@localhost"}, "may not hold a user name"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_made(server, folder, changes, words):
    with pytest.raises(EnrolmentError, match=words) as error:
        enrol(wanted(server, folder, **changes), print)
    assert "secret" not in str(error.value)
    assert not folder.exists()


def test_a_key_that_others_may_read_is_refused(server, folder):
    folder.mkdir()
    shutil.copyfile(__file__, folder / "device.key")
    (folder / "device.key").chmod(0o640)
    with pytest.raises(IdentityError, match="mode 0640"):
        enrol(wanted(server, folder), print)


def test_a_power_cut_anywhere_leaves_no_half_identity_and_the_same_command_goes_on(server, folder):
    asked = []

    def begin():
        shutil.rmtree(folder, ignore_errors=True)
        asked.append(wanted(server, folder))
        return lambda: enrol(asked[-1], print)

    for _ in cut_everywhere(begin):
        # After the certificate comes only what tidies up.
        if not (folder / "device.crt").exists():
            enrol(asked[-1], print)
        assert load(folder).subject.name == "device-1"
    assert len(asked) > 15
    assert len(server.issued) == len(asked), "a token gave more than one certificate"
    assert json.loads((folder / "enrolment.json").read_bytes()) == {"url": server.url, "key": "file"}
