"""The commands of enrolment: tokens, certificates, renewal, lists, the broker's files; and clear errors."""

import pytest
from marram.wire.tokens import Token
from marram_cloud.cli import main
from marram_cloud.enrolment.files import FleetFolder


@pytest.fixture
def fleet(tmp_path):
    return FleetFolder.create(tmp_path / "fleet", "dunes", "north")


@pytest.fixture
def say(fleet, capsys):
    """Run a command on the fleet's folder; what it printed."""

    def run(command, *arguments, status=0):
        capsys.readouterr()
        assert main([*command.split(), str(fleet.path), *arguments]) == status
        out, error = capsys.readouterr()
        return error if status else out

    return run


def test_a_token_is_printed_alone_and_listed_without_its_secret(say):
    token = Token.parse(say("enrolment token", "--device", "press-01"))
    say("enrolment token", "--count", "20", "--expires", "7d")
    listed = say("enrolment tokens")
    bound, counted = listed.splitlines()
    assert bound.startswith(f"{token.id}  open       used 0 of 1  until ")
    assert bound.endswith("device press-01")
    assert "used 0 of 20" in counted
    assert counted.endswith("any new device")
    assert token.secret not in listed


def test_a_withdrawn_token_is_shown_as_such(say):
    token = Token.parse(say("enrolment token", "--device", "press-01"))
    say("enrolment withdraw", token.id)
    assert say("enrolment tokens").startswith(f"{token.id}  withdrawn")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "a/b"], "not usable"),
        (["--device", "aggregator"], "the aggregator's own name"),
        (["--count", "0"], "--count 0: expected at least 1"),
        (["--count", "1", "--expires", "soon"], "--expires soon: expected a duration"),
    ],
)
def test_a_token_that_makes_no_sense_is_refused(say, arguments, words):
    assert words in say("enrolment token", *arguments, status=1)
    assert say("enrolment tokens") == ""


def test_a_token_that_nobody_made_cannot_be_withdrawn(say):
    assert "there is no token 'x'" in say("enrolment withdraw", "x", status=1)


@pytest.mark.parametrize("listen", ["8443", "localhost", "127.0.0.1:0", "127.0.0.1:99999", "127.0.0.1:x"])
def test_an_address_that_is_none_is_refused(say, listen):
    assert "expected ADDRESS:PORT" in say("enrolment serve", "--listen", listen, status=1)


def test_devices_made_without_an_aggregator_are_listed_with_their_end_and_revoked(say, fleet):
    assert "devices/press-01" in say("enrol", "press-01", "press-02", "--days", "30")
    printed = say("revoke", "press-01")
    assert "press-01: revoked" in printed
    assert "list 2, 1 certificates" in printed
    newest, revoked, aggregator = sorted(say("enrolment certificates").splitlines(), reverse=True)
    assert newest.startswith("press-02")
    assert revoked.startswith("press-01")
    assert revoked.endswith("REVOKED")
    assert "REVOKED" not in newest + aggregator
    assert "list 3, 1 certificates" in say("revoke")


def test_certificates_are_renewed_and_the_brokers_files_written(say, fleet):
    assert "name its hosts with --host" in say("broker-config", status=1)
    assert say("broker-config", "--host", "broker.example").strip() == str(fleet.path / "broker")
    renewed = say("renew").splitlines()
    assert [line.split(":")[0] for line in renewed] == [str(fleet.path / n) for n in ("aggregator", "broker")]
    assert "nothing to renew here" in say("renew", str(fleet.path / "nowhere"), status=1)


@pytest.mark.parametrize(
    "command", ["enrolment tokens", "enrolment serve", "revoke", "renew", "broker-config"]
)
def test_a_folder_that_is_no_fleets_says_what_to_run(tmp_path, capsys, command):
    assert main([*command.split(), str(tmp_path / "nothing")]) == 1
    assert "marram-cloud init" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()
