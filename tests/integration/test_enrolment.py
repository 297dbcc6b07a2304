"""The enrolment server over real HTTPS: by stock tools alone, and by clients that mean no good."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from marram.wire import certificates, revocation
from marram.wire.certificates import Subject
from marram.wire.tokens import Token
from marram_cloud.enrolment import authority
from marram_cloud.enrolment.files import FleetFolder

from tests.support.enrolment import EnrolmentServer, basic, issued, request
from tests.support.fleet import run
from tests.support.pages import docs
from tests.support.secured import write_identity

ENROL, RENEW = "est/simpleenroll", "est/simplereenroll"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EnrolmentServer]:
    with EnrolmentServer(FleetFolder.create(tmp_path / "fleet", "dunes", "north"), tmp_path) as running:
        yield running


CHECKS = r"""
openssl verify -CAfile ca.crt -purpose sslclient device.crt new.crt
curl -sS --fail --cacert ca.crt $est/csrattrs | openssl base64 -d | openssl asn1parse -inform DER
curl -sS --fail --cacert ca.crt $URL/.well-known/marram/ca.crl | openssl crl -inform DER -CAfile ca.crt -noout
"""


def test_stock_tools_enrol_and_renew_a_device(server: EnrolmentServer, tmp_path: Path) -> None:
    [page] = docs("enrolment.md").blocks("sh")
    first, commands = page.split("\n", 1)
    first = first.replace("https://enrol.example:8443", server.url)
    first = first.replace("mrm1_...", server.token("--device", "press-01"))
    script = f"set -eu\n{first}\n{commands}{CHECKS}"
    folder = tmp_path / "device"
    folder.mkdir()
    done = subprocess.run(
        ["sh", "-c", script], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "id-ecPublicKey" in done.stdout
    assert "prime256v1" in done.stdout
    assert "verify OK" in done.stderr  # of the list of revoked certificates
    old, new = (
        x509.load_pem_x509_certificate((folder / name).read_bytes()) for name in ("device.crt", "new.crt")
    )
    assert certificates.subject_of(old).uri == "marram://dunes/north/device/press-01"
    assert certificates.subject_of(new) == certificates.subject_of(old)
    assert new.serial_number != old.serial_number
    listed = run("marram_cloud.cli", "enrolment", "tokens", server.fleet.path).stdout
    assert "used 1 of 1" in listed


def test_the_same_token_by_many_at_once_makes_one_device(server: EnrolmentServer) -> None:
    token = server.token("--count", 1)

    def work(number: int) -> int:
        name = f"d{number}"
        return server.ask(ENROL, request(name, authority.new_key()), basic(name, token))[0]

    with ThreadPoolExecutor(6) as pool:
        answers = sorted(pool.map(work, range(6)))
    assert answers.count(200) == 1
    # Guesses are slowed down while the others still come.
    assert set(answers[1:]) <= {403, 429}


def test_what_is_wrong_is_told_with_a_status_and_words_and_no_secret_is_logged(
    server: EnrolmentServer,
) -> None:
    token, key = server.token("--device", "a"), authority.new_key()
    good = request("a", key)
    (server.fleet.path / "root.json").unlink()
    cases = [
        (401, b"HTTP Basic", ENROL, good, {}),
        (401, b"HTTP Basic", ENROL, good, {"Authorization": "Bearer x"}),
        (401, b"HTTP Basic", ENROL, good, {"Authorization": "Basic !"}),
        (401, b"no enrolment token", ENROL, good, basic("a", "hunter2")),
        (400, b"not a PKCS #10", ENROL, b"garbage", basic("a", token)),
        (413, b"more than", ENROL, b"A" * (1 << 20), basic("a", token)),
        (403, b"another device", ENROL, request("b", key), basic("b", token)),
        (401, b"certificate by TLS", RENEW, good, basic("a", token)),
        (405, b"", ENROL, None, {}),
        (404, b"root.json", "marram/root.json", None, {}),
        (404, b"", "est/serverkeygen", None, {}),
    ]
    for status, words, path, body, headers in cases:
        answer = server.ask(path, body, headers)
        assert (answer[0], words in answer[1]) == (status, True), (path, answer)
    assert server.ask(ENROL, good, basic("a", token))[0] == 200
    log = server.process.log.read_text()
    assert "enrolled a from 127.0.0.1" in log
    assert token.split("_")[2] not in log
    assert "hunter2" not in log
    assert "Traceback" not in log


def test_who_guesses_is_slowed_down(server: EnrolmentServer) -> None:
    # A token is good for a retry after its answer was lost, and so costs no guesses.
    for _ in range(6):
        last = server.ask(ENROL, b"", basic("a", str(Token.new(b""))))
    assert last[0] == 429
    assert b"wait" in last[1]


def test_the_root_of_releases_is_handed_out(server: EnrolmentServer) -> None:
    assert server.ask("marram/root.json") == (200, (server.fleet.path / "root.json").read_bytes())


def test_a_revoked_device_cannot_renew_and_an_ended_certificate_does_not_even_connect(
    server: EnrolmentServer, tmp_path: Path
) -> None:
    key = authority.new_key()
    status, body = server.ask(ENROL, request("a", key), basic("a", server.token("--device", "a")))
    assert status == 200
    identity = write_identity(tmp_path / "a", issued(body), key)
    assert server.ask(RENEW, request("a", authority.new_key()), identity=identity)[0] == 200
    done = run("marram_cloud.cli", "revoke", server.fleet.path, "a")
    assert done.returncode == 0, done.stderr
    status, words = server.ask(RENEW, request("a", authority.new_key()), identity=identity)
    assert (status, b"was revoked" in words) == (403, True)
    status, content = server.ask("marram/ca.crl")
    found = revocation.read(content, issued(server.ask("est/cacerts")[1]))
    assert {issued(body).serial_number} < found.serials  # with the one that it was renewed to

    issuer = authority.load(server.fleet.path)
    ended = issuer.issue(Subject("dunes", "north", "device", "a"), key.public_key(), days=1e-9)
    foreign = FleetFolder.create(tmp_path / "other", "dunes", "north").enrol("a")[0]
    for bad in (write_identity(tmp_path / "b", ended, key), (foreign / "device.crt", foreign / "device.key")):
        with pytest.raises(OSError, match=r"(?i)certificate|unknown ca|reset|EOF|closed"):
            server.ask(RENEW, request("a", key), identity=bad)


def test_silent_and_broken_clients_cost_nobody_else_anything(server: EnrolmentServer) -> None:
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
    for number, one in enumerate(silent):
        one.sendall(os.urandom(300) if number % 2 else b"")
    assert server.ask("est/cacerts")[0] == 200
    for one in silent:
        one.close()
    assert "Traceback" not in server.process.log.read_text()


def test_it_ends_with_0_and_what_it_gave_is_on_record_after_a_kill(server: EnrolmentServer) -> None:
    token, key = server.token("--device", "a"), authority.new_key()
    first = server.ask(ENROL, request("a", key), basic("a", token))[1]
    server.process.kill()
    server.process.start()
    until = time.monotonic() + 20
    while True:
        try:
            assert issued(server.ask(ENROL, request("a", key), basic("a", token))[1]) == issued(first)
            break
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.05)
    assert server.process.stop() == 0


def test_a_port_that_is_taken_and_a_folder_that_is_no_fleets_are_told(
    server: EnrolmentServer, tmp_path: Path
) -> None:
    taken = run(
        "marram_cloud.cli", "enrolment", "serve", server.fleet.path, "--listen", f"127.0.0.1:{server.port}"
    )
    assert taken.returncode == 1
    assert "cannot be listened on: Address already in use" in taken.stderr
    nothing = run("marram_cloud.cli", "enrolment", "serve", tmp_path / "nothing")
    assert nothing.returncode == 1
    assert "marram-cloud init" in nothing.stderr
    assert "Traceback" not in nothing.stderr
