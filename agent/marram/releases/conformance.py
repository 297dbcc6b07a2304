"""``marram-tuf-client``: the command line of the public TUF conformance suite (its CLIENT-CLI.md).

The client behind it is the one that devices use.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from marram.errors import MarramError
from marram.storage import replace_file

if TYPE_CHECKING:
    from marram.releases.tuf_client import Client

_DAY = 86400.0


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0, or 1 with the reason on standard error."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except (MarramError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _init(options: argparse.Namespace) -> None:
    options.metadata_dir.mkdir(parents=True, exist_ok=True)
    replace_file(options.metadata_dir / "root.json", options.root.read_bytes())


def _refresh(options: argparse.Namespace) -> None:
    _client(options).refresh()


def _download(options: argparse.Namespace) -> None:
    from marram.releases.tuf_client import UntrustedError

    client = _client(options)
    client.refresh()
    for name in options.target_name:
        info = client.target(name)
        if info is None:
            raise UntrustedError(f"{name}: the repository has no such target")
        target = options.target_dir / quote(name, "")
        if client.is_held(info, target):
            continue
        aside = target.with_name(f".{target.name}.part")
        try:
            client.download(info, None, aside, ())
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)


def _client(options: argparse.Namespace) -> Client:
    from marram.releases.https import HttpsTransport
    from marram.releases.tuf_client import Client

    return Client(
        options.metadata_dir,
        _folder(options.metadata_url),
        _folder(options.target_base_url or options.metadata_url),
        HttpsTransport(),
        time.time() + options.days_in_future * _DAY,
        root=None,
        max_root_rotations=options.max_root_rotations,
    )


def _folder(url: str) -> str:
    return url if url.endswith("/") else f"{url}/"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="marram-tuf-client", description=__doc__)
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-base-url")
    parser.add_argument("--target-dir", type=Path)
    parser.add_argument("--days-in-future", type=float, default=0.0)
    parser.add_argument("--max-root-rotations", type=int, default=256)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    begun = commands.add_parser("init", help="Trust a root from now on.")
    begun.add_argument("root", type=Path)
    begun.set_defaults(command=_init)
    commands.add_parser("refresh", help="Bring the metadata up to date.").set_defaults(command=_refresh)
    commands.add_parser("download", help="Fetch targets.").set_defaults(command=_download)
    return parser


if __name__ == "__main__":
    sys.exit(main())
