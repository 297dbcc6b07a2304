"""Mosquitto's configuration for a region: mutual TLS, and who may read and write what.

The user name is the common name of the client's certificate. The authority gives the name ``aggregator`` to
the aggregator alone, so the access rules can know it by its name.
"""

from __future__ import annotations

from pathlib import Path

from marram.wire.topics import Topics

from marram_cloud.enrolment.authority import AGGREGATOR

FILES, PORT = Path("/etc/mosquitto/marram"), 8883


def configuration(files: Path = FILES, port: int = PORT) -> str:
    """``marram.conf``. files: the folder with the TLS files, the list of revoked certificates and ``acl``."""
    return f"""\
# Marram: written by `marram-cloud broker-config`; for Mosquitto 2, in /etc/mosquitto/conf.d.
listener {port}
cafile {files}/ca.crt
certfile {files}/server.crt
keyfile {files}/server.key
# Read again on SIGHUP (systemctl reload mosquitto), as the access rules are.
crlfile {files}/ca.crl
acl_file {files}/acl
require_certificate true
use_identity_as_username true
# One device cannot drive another off by connecting under its client name.
use_username_as_clientid true
max_queued_messages 10000
"""


def access_rules(topics: Topics) -> str:
    """``acl``. ``%u`` is the name in a client's certificate; what no rule allows is denied."""
    root = topics.root
    return f"""\
# Marram: written by `marram-cloud broker-config`. Mosquitto warns of patterns without %u: they are for all.
user {AGGREGATOR}
topic readwrite {topics.round}
topic readwrite {root}/parameters/#
topic readwrite {root}/release/#
topic readwrite {topics.revoked}
topic read {topics.state("+")}
topic read {topics.report("+")}
topic read {topics.up("+", "#")}
topic write {topics.down("+", "#")}

pattern write {topics.state("%u")}
pattern write {topics.report("%u")}
pattern write {topics.up("%u", "#")}
pattern read {topics.down("%u", "#")}
pattern read {topics.round}
pattern read {root}/parameters/#
pattern read {root}/release/#
pattern read {topics.revoked}
"""
