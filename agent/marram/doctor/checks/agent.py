"""Does the agent run, and what does it say of itself?"""

from __future__ import annotations

from collections.abc import Iterator

from marram.doctor.finding import Finding, error, note, ok, warning
from marram.doctor.machine import UNIT, Machine


def check(machine: Machine) -> Iterator[Finding]:
    status = machine.status
    if status is None:
        yield from _silent(machine)
        return
    yield ok("agent", f"has run for {status['uptime']:.0f} s as process {status['pid']}")
    for name, mode in status.get("modes", {}).items():
        yield warning(f"mode {name}", mode["reason"], mode["todo"])
    windows = status["windows"]
    if windows["failed"]:
        yield error(
            "windows",
            f"{windows['failed']} of {windows['received']} could not be predicted",
            "the log says what the model refuses; look at the sensors, or go back to the release before",
        )
    if windows["dropped"]:
        yield warning(
            "windows",
            f"{windows['dropped']} of {windows['received']} were dropped: the model is too slow",
            "a larger stride, a smaller model, more model.threads, or a cooler place",
        )
    for name, sensor in status["sensors"].items():
        if sensor["error"]:
            yield error(f"sensor {name}", sensor["error"], "see its lines below, and docs/sensors.md")
    for name, output in status["outputs"].items():
        if output["errors"] or output["unsent"]:
            yield warning(
                f"output {name}",
                f"{output['errors']} blocks were not written, {output['unsent']} predictions found no broker",
                "the log says why; the checks of disk and broker look at the other side",
            )


def _silent(machine: Machine) -> Iterator[Finding]:
    state = machine.unit.get("ActiveState", "")
    if state in ("failed", "activating") or machine.unit.get("SubState") == "auto-restart":
        yield error(
            "agent",
            f"does not run: {UNIT} is {state} ({machine.unit.get('Result', '')}, status "
            f"{machine.unit.get('ExecMainStatus', '')}, {machine.unit.get('NRestarts', '0')} restarts)",
            f"`journalctl -u {UNIT} -n 50` says why",
        )
    elif machine.silence:
        start = f"`systemctl start {UNIT}`, if it should run now" if machine.unit else ""
        yield note("agent", machine.silence, start)
