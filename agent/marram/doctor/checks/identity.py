"""Is the device's identity whole, and until when is its certificate good?"""

from __future__ import annotations

import time
from collections.abc import Iterator

from marram.doctor.finding import Finding, error, ok, warning
from marram.doctor.machine import Machine
from marram.errors import IdentityError

_SOON = 14 * 86400.0


def check(machine: Machine) -> Iterator[Finding]:
    if machine.config is None or machine.config.cloud is None:
        return
    from marram.link.identity import load

    cloud = machine.config.cloud
    try:
        identity = load(cloud.identity, key=cloud.key)
    except IdentityError as problem:
        yield error("identity", str(problem), "see docs/identity.md; `marram enrol` makes a new one")
        return
    subject, left = identity.subject, identity.expires - machine.now
    found = (
        f"{subject.name} of fleet {subject.fleet}, region {subject.region}, until {_day(identity.expires)}"
    )
    url = cloud.enrolment or identity.enrolment.url
    if left < 0:
        yield error(
            "certificate", f"{found}: has ended", "look at the clock; else enrol it anew with a new token"
        )
    elif machine.now < identity.floor:
        yield error("certificate", f"good only from {_day(identity.floor)} on", "the clock is behind: set it")
    elif left < _SOON:
        todo = (
            "see `marram status` for why it was not renewed"
            if url
            else "no enrolment server is known: enrol anew"
        )
        yield warning("certificate", found, todo)
    else:
        yield ok("certificate", found)
    if identity.authority.not_valid_after_utc.timestamp() < machine.now + _SOON:
        yield error(
            "authority", "the fleet's ca.crt ends soon or has ended", "the fleet needs a new authority"
        )
    if not identity.root.exists():
        yield warning(
            "root.json",
            "is missing: this device follows no releases",
            f"put the fleet's into {identity.folder}",
        )
    if not url:
        yield warning(
            "renewal", "no enrolment server is known", "set cloud.enrolment; else renew by hand in time"
        )


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(moment))
