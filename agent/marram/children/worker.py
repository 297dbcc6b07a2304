"""What the service manager starts for each connection to the socket of the children (marram-work@.service).

``python -I -m marram.children.worker`` with the connection as standard input; the other side is
``unit.UnitProcess``.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import struct
import sys
import threading

WORKS = frozenset(
    {
        "marram.learning.trainer",
        "marram.releases.fetch",
        "marram.releases.preflight",
        "marram.releases.trial",
    }
)
"""What may be run so."""


def main() -> int:
    control = socket.socket(fileno=os.dup(0))
    request, pipes, _, _ = socket.recv_fds(control, 65536, 3)
    asked = json.loads(request) if len(pipes) == 3 else {}
    if asked.get("module") not in WORKS:
        print(f"the other side wants what is no work of Marram's: {request[:200]!r}", file=sys.stderr)
        return 1
    for standard, pipe in enumerate(pipes):
        os.dup2(pipe, standard)
        os.close(pipe)
    os.environ.update(asked["environment"])
    threading.Thread(target=_end_with, args=(control,), daemon=True).start()
    control.sendall(struct.pack(">i", os.getpid()))
    status = _run(asked["module"])
    control.sendall(struct.pack(">i", status))
    return status


def _end_with(control: socket.socket) -> None:
    """The daemon says nothing more; once it is gone, or wants this to end, nobody needs the work."""
    control.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def _run(module: str) -> int:
    sys.argv = [module, str(os.getppid())]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
