"""Fleet folders: what they hold, who may read it, and that nothing is overwritten."""

import ssl
import stat

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from marram.link.identity import load
from marram.wire import certificates
from marram_cloud.enrolment import authority
from marram_cloud.enrolment.authority import EnrolmentError
from marram_cloud.enrolment.files import FleetFolder

DAY = 86400


@pytest.fixture
def folder(tmp_path):
    return FleetFolder.create(tmp_path / "fleet", "dunes", "north")


def snapshot(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_new_fleet_has_its_authority_its_release_repository_and_its_aggregator(folder):
    assert sorted(name for name in snapshot(folder.path) if not name.startswith("repository/")) == [
        "aggregator/ca.crt", "aggregator/device.crt", "aggregator/device.key", "aggregator/root.json",
        "ca.crl", "ca.crt", "ca.key", "enrolment.db", "fleet.json", "offline/release-1.pem",
        "offline/root-1.pem", "offline/targets-1.pem", "online/rollout-1.pem", "online/snapshot-1.pem",
        "online/timestamp-1.pem", "root.json",
    ]  # fmt: skip
    root = snapshot(folder.path)["repository/metadata/1.root.json"]
    assert root == (folder.path / "root.json").read_bytes()
    assert root == (folder.path / "aggregator" / "root.json").read_bytes()
    assert load(folder.path / "aggregator", role="aggregator").subject.uri == (
        "marram://dunes/north/aggregator/aggregator"
    )


def test_a_devices_certificate_names_fleet_region_role_and_device(folder):
    path, certificate = folder.enrol("press-07")
    identity = load(path)
    assert identity.subject.uri == "marram://dunes/north/device/press-07"
    assert identity.certificate == certificate
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca
    certificates.check_issued(certificate, identity.authority, identity.floor + 2 * DAY)


def test_every_device_has_a_key_of_its_own(folder):
    keys = {folder.enrol(name)[1].public_key().public_numbers() for name in ("a", "b", "c")}
    assert len(keys) == 3


def test_private_keys_are_for_their_owner_only(folder):
    folder.enrol("a")
    folder.issue_broker(("localhost",))
    keys = [*folder.path.rglob("*.key"), *folder.path.rglob("*.pem")]
    assert len(keys) == 4 + 6
    assert {stat.S_IMODE(file.stat().st_mode) for file in keys} == {0o600}


def test_a_fleet_is_not_made_over_another(folder):
    before = snapshot(folder.path)
    with pytest.raises(EnrolmentError, match="exists already"):
        FleetFolder.create(folder.path, "dunes", "north")
    assert snapshot(folder.path) == before


def test_a_device_is_not_enrolled_over_another(folder):
    folder.enrol("a")
    before = snapshot(folder.path)
    with pytest.raises(EnrolmentError, match="enrolled already"):
        folder.enrol("a")
    assert snapshot(folder.path) == before


def test_release_keys_that_are_there_are_never_overwritten(tmp_path):
    (tmp_path / "offline").mkdir()
    (tmp_path / "offline" / "root-1.pem").write_text("precious")
    FleetFolder.create(tmp_path, "dunes", "north")
    assert (tmp_path / "offline" / "root-1.pem").read_text() == "precious"
    assert (tmp_path / "offline" / "root-2.pem").exists()


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a b", "-a", "a" * 49, "a\n", "+", "#"])
def test_a_name_that_no_topic_can_bear_is_refused(folder, name):
    with pytest.raises(EnrolmentError, match="not usable"):
        folder.enrol(name)
    with pytest.raises(EnrolmentError, match="not usable"):
        FleetFolder.create(folder.path / "new", name, "north")
    assert not (folder.path / "devices").exists()


def test_no_device_can_take_the_name_that_the_broker_knows_the_aggregator_by(folder):
    with pytest.raises(EnrolmentError, match="the aggregator's own name"):
        folder.enrol("aggregator")
    assert not (folder.path / "devices" / "aggregator").exists()


def test_a_folder_that_is_no_fleets_says_what_to_run(tmp_path):
    with pytest.raises(EnrolmentError, match="marram-cloud init"):
        FleetFolder(tmp_path).enrol("a")


def test_a_place_that_cannot_be_written_is_an_error_with_a_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnrolmentError, match="file"):
        FleetFolder.create(tmp_path / "file" / "fleet", "dunes", "north")


@pytest.mark.parametrize("name", ["ca.key", "ca.crt"])
def test_a_damaged_authority_is_named(folder, name):
    (folder.path / name).write_bytes(b"damaged")
    with pytest.raises(EnrolmentError, match="damaged"):
        folder.enrol("a")


def test_an_authority_without_its_key_enrols_nobody(folder):
    (folder.path / "ca.key").unlink()
    with pytest.raises(EnrolmentError, match=r"ca\.key"):
        folder.enrol("a")


def test_the_key_of_another_authority_is_refused(folder, tmp_path):
    other = FleetFolder.create(tmp_path / "other", "dunes", "north")
    (folder.path / "ca.key").write_bytes((other.path / "ca.key").read_bytes())
    with pytest.raises(EnrolmentError, match="not the key of ca"):
        folder.enrol("a")


def test_the_brokers_certificate_is_believed_for_its_names_and_no_others(folder):
    path = folder.issue_broker(("broker.example", "127.0.0.1"))
    device, _ = folder.enrol("a")
    names = authority_names(path)
    assert names == ({"broker.example"}, {"127.0.0.1"})
    assert handshake(path, load(device).tls(), "broker.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(path, load(device).tls(), "other.example")


def test_a_device_of_another_fleet_does_not_believe_the_broker(folder, tmp_path):
    path = folder.issue_broker(("broker.example",))
    other, _ = FleetFolder.create(tmp_path / "other", "dunes", "north").enrol("a")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(path, load(other).tls(), "broker.example")


def authority_names(path):
    certificate = x509.load_pem_x509_certificate((path / "server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    return set(names.get_values_for_type(x509.DNSName)), addresses


def handshake(broker, client_context, host):
    """A TLS handshake in memory that wants a certificate of both sides; what the broker saw of the device."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(broker / "server.crt", broker / "server.key")
    context.load_verify_locations(broker / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        done = 0
        for side in (client, server):
            try:
                side.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                pass
        if done == 2:
            return server.getpeercert()
    raise AssertionError("the handshake did not end")


def test_a_private_file_is_private_from_its_first_byte_on(tmp_path):
    authority.write_private(tmp_path / "deep" / "key", b"secret")
    assert stat.S_IMODE((tmp_path / "deep" / "key").stat().st_mode) == 0o600
    with pytest.raises(EnrolmentError):
        authority.write_private(tmp_path / "deep" / "key", b"other")
    assert (tmp_path / "deep" / "key").read_bytes() == b"secret"
