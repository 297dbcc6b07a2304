"""The folders that ``marram-cloud init`` and ``enrol`` write: a fleet, its aggregator, its devices.

A fleet folder holds ``fleet.json``, the authority (``ca.key``, ``ca.crt``), the release
``repository/`` with its ``offline/`` and ``online/`` keys and ``root.json``, which devices trust releases by,
``aggregator/`` (an identity) and ``devices/NAME/`` of those enrolled.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from marram.link.identity import Identity
from marram.link.identity import load as load_identity
from marram.storage import sync_folder
from marram.wire import certificates
from marram.wire.certificates import Subject
from marram.wire.topics import check_name

from marram_cloud.enrolment import authority
from marram_cloud.enrolment.authority import Authority, EnrolmentError
from marram_cloud.releases.repository import create as repository
from marram_cloud.releases.repository.create import Quorums

AGGREGATOR = "aggregator"


class Fleet(msgspec.Struct, frozen=True):
    """``fleet.json``."""

    fleet: str
    region: str


@dataclass(frozen=True)
class FleetFolder:
    """A fleet's files."""

    path: Path

    @property
    def fleet(self) -> Fleet:
        try:
            return msgspec.json.decode((self.path / "fleet.json").read_bytes(), type=Fleet)
        except (OSError, msgspec.MsgspecError) as error:
            raise EnrolmentError(
                f"{self.path}: is not a fleet's folder; run `marram-cloud init` first"
            ) from error

    @staticmethod
    def create(path: Path, fleet: str, region: str, models: Sequence[str] = ()) -> FleetFolder:
        """Make the authority, the release repository with its keys and the aggregator's identity.

        models: that will be released. Raises EnrolmentError, RepositoryError.
        """
        try:
            check_name("fleet", fleet)
            check_name("region", region)
        except ValueError as error:
            raise EnrolmentError(str(error)) from error
        made = authority.create(path, fleet)
        root = repository.create(
            path / "repository", path / "offline", path / "online", models, Quorums(), datetime.now(UTC)
        )
        (path / "root.json").write_bytes(root)
        (path / "fleet.json").write_bytes(msgspec.json.encode(Fleet(fleet, region)) + b"\n")
        folder = FleetFolder(path)
        folder._identity(made, path / AGGREGATOR, Subject(fleet, region, "aggregator", AGGREGATOR))
        return folder

    def check_aggregator(self, identity: Identity) -> None:
        """Raise EnrolmentError unless devices enrolled here are of this aggregator's fleet and region."""
        about, subject = self.fleet, identity.subject
        if (about.fleet, about.region) != (subject.fleet, subject.region):
            raise EnrolmentError(
                f"{self.path}: is of fleet {about.fleet!r}, region {about.region!r}, but the configured "
                f"aggregator ({identity.folder}) of fleet {subject.fleet!r}, region {subject.region!r}"
            )
        if certificates.der(authority.load(self.path).certificate) != certificates.der(identity.authority):
            raise EnrolmentError(
                f"{self.path}: has another authority (ca.crt) than the configured aggregator "
                f"({identity.folder}), although fleet and region have the same names"
            )

    def enrol(
        self, name: str, register: Callable[[x509.Certificate], None] = lambda certificate: None
    ) -> tuple[Path, x509.Certificate]:
        """Make a device's identity folder. Raises EnrolmentError when there is one of that name.

        register: puts the certificate on record; what it raises leaves the name free for another try.
        """
        target = self._folder_of(name)
        if target.exists():
            raise EnrolmentError(
                f"{target}: device {name!r} is enrolled already; take another name, "
                "or move this folder away to give it a new key"
            )
        about = self.fleet
        subject = Subject(about.fleet, about.region, "device", name)
        made = target.with_name(f".{name}.new")
        shutil.rmtree(made, ignore_errors=True)
        try:
            certificate = self._identity(authority.load(self.path), made, subject)
            register(certificate)
            made.rename(target)
        except OSError as error:
            raise EnrolmentError(f"{target}: cannot be written: {error.strerror}") from error
        finally:
            shutil.rmtree(made, ignore_errors=True)
        sync_folder(target.parent)
        return target, certificate

    def enrolled(self, name: str) -> x509.Certificate | None:
        """The certificate of a device that has its files here, or None. Raises IdentityError."""
        target = self._folder_of(name)
        return load_identity(target).certificate if target.exists() else None

    def issue_broker(self, hosts: tuple[str, ...]) -> Path:
        """A TLS server certificate for the region's broker: ``broker/{server.key,server.crt,ca.crt}``."""
        target = self.path / "broker"
        key = authority.new_key()
        certificate = authority.load(self.path).issue_server(hosts, key.public_key())
        authority.write_private(target / "server.key", authority.private_pem(key))
        (target / "server.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        shutil.copy(self.path / "ca.crt", target / "ca.crt")
        return target

    def _folder_of(self, name: str) -> Path:
        try:
            check_name("device", name)
        except ValueError as error:
            raise EnrolmentError(str(error)) from error
        if name == AGGREGATOR:
            # The name in a certificate is the user name at the broker and part of the client's name there.
            raise EnrolmentError(f"{name!r} is the aggregator's own name; take another for the device")
        return self.path / "devices" / name

    def _identity(self, issuer: Authority, target: Path, subject: Subject) -> x509.Certificate:
        key = authority.new_key()
        certificate = issuer.issue(subject, key.public_key())
        authority.write_private(target / "device.key", authority.private_pem(key))
        (target / "device.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        (target / "ca.crt").write_bytes(issuer.certificate.public_bytes(Encoding.PEM))
        shutil.copy(self.path / "root.json", target / "root.json")
        return certificate
