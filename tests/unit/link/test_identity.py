"""An identity folder: read as enrolment wrote it, or refused with the file and what to do."""

import shutil
import ssl

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from marram.errors import IdentityError
from marram.link.identity import AUTHORITY, CERTIFICATE, ENROLMENT, KEY, load
from marram.wire import envelope
from marram_cloud.enrolment import authority
from marram_cloud.enrolment.files import FleetFolder


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    folder = FleetFolder.create(tmp_path_factory.mktemp("fleet"), "fleet", "region")
    folder.enrol("device-1")
    folder.enrol("device-2")
    return folder


@pytest.fixture
def folder(fleet, tmp_path):
    """A copy of a device's identity that a test may spoil."""
    return shutil.copytree(fleet.path / "devices" / "device-1", tmp_path / "identity")


def test_what_enrolment_wrote_is_read(folder):
    identity = load(folder)
    subject = identity.subject
    assert (subject.fleet, subject.region, subject.role, subject.name) == (
        "fleet", "region", "device", "device-1",
    )  # fmt: skip
    assert identity.signer.key_id == envelope.digest(identity.certificate.public_bytes(Encoding.DER))
    assert identity.floor == identity.certificate.not_valid_before_utc.timestamp()
    assert identity.tls().verify_mode == ssl.CERT_REQUIRED


def test_the_aggregators_identity_is_not_a_devices(fleet):
    assert load(fleet.path / "aggregator", role="aggregator").subject.role == "aggregator"
    with pytest.raises(IdentityError, match="needed here"):
        load(fleet.path / "aggregator")


@pytest.mark.parametrize("name", [KEY, CERTIFICATE, AUTHORITY, ENROLMENT])
@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_damaged_file_is_named(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(IdentityError, match=name):
        load(folder)


@pytest.mark.parametrize("name", [KEY, CERTIFICATE, AUTHORITY])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(IdentityError, match=name):
        load(folder)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_is_open_to_others_is_refused_with_what_to_do(folder, mode):
    (folder / KEY).chmod(mode)
    with pytest.raises(
        IdentityError, match=rf"mode {mode:04o}\); make it safe with `chmod 600 \S+device\.key`"
    ):
        load(folder)


def test_a_key_may_be_a_credential_of_the_unit(folder, tmp_path, monkeypatch):
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (folder / KEY).rename(credentials / "marram.key")
    (folder / ENROLMENT).write_text('{"key": "credential:marram.key"}')
    with pytest.raises(IdentityError, match=r"add LoadCredential=marram\.key:"):
        load(folder)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    (credentials / "marram.key").chmod(0o440)
    assert load(folder).tls().verify_mode == ssl.CERT_REQUIRED
    with pytest.raises(IdentityError, match=r"other\.key: .*LoadCredential="):
        load(folder, key="credential:other.key")


def test_a_place_of_a_key_that_does_not_exist_is_refused_with_those_that_do(folder):
    with pytest.raises(IdentityError, match="expected file, credential:NAME or pkcs11"):
        load(folder, key="smartcard")


def test_a_missing_folder_says_who_writes_one(tmp_path):
    with pytest.raises(IdentityError, match="marram-cloud enrol"):
        load(tmp_path / "nowhere")


def test_the_key_of_another_device_is_refused(fleet, folder):
    shutil.copy(fleet.path / "devices" / "device-2" / KEY, folder / KEY)
    with pytest.raises(IdentityError, match=r"does not belong to device\.crt"):
        load(folder)


def test_the_authority_of_another_fleet_is_refused(folder, tmp_path):
    other = FleetFolder.create(tmp_path / "other", "fleet", "region")
    shutil.copy(other.path / "ca.crt", folder / AUTHORITY)
    with pytest.raises(IdentityError, match=r"was not issued by ca\.crt"):
        load(folder)


def test_a_certificate_that_names_no_device_is_refused(fleet, folder):
    key = load_pem_private_key((folder / KEY).read_bytes(), None)
    server = authority.load(fleet.path).issue_server(("localhost",), key.public_key())
    (folder / CERTIFICATE).write_bytes(server.public_bytes(Encoding.PEM))
    with pytest.raises(IdentityError, match=r"device\.crt"):
        load(folder)


def test_a_key_with_a_password_or_of_another_kind_is_refused(folder):
    key = load_pem_private_key((folder / KEY).read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (folder / KEY).write_bytes(locked)
    with pytest.raises(IdentityError, match="password"):
        load(folder)
    other = rsa.generate_private_key(65537, 2048)
    (folder / KEY).write_bytes(authority.private_pem(other))
    with pytest.raises(IdentityError, match="neither a P-256 nor an Ed25519 key"):
        load(folder)
