"""What the running daemon says of itself: an object for ``marram status --json``, and its text for people."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:  # `marram status` prints a text and needs none of the daemon
    from marram.assembly import Parts
    from marram.config.schema import Agent
    from marram.releases.updater import Updater

_BEGAN = time.time()


def status(config: Agent, parts: Parts) -> dict[str, Any]:
    """Rates, lag, drops, model, learning, releases, memory. Times in seconds, sizes in bytes."""
    pipeline, queue = parts.pipeline, parts.pipeline.queue
    uptime = max(time.time() - _BEGAN, 1e-3)
    p50, p99 = pipeline.latency_us()
    rss, pss = parts.resources.memory()
    running = parts.installation.machine.running
    answer: dict[str, Any] = {
        "device": config.device.name,
        "pid": os.getpid(),
        "uptime": round(uptime, 1),
        "model": {
            "name": pipeline.model.name if pipeline.model else None,
            "runtime": pipeline.model.runtime if pipeline.model else None,
            "why": pipeline.model.why if pipeline.model else None,
            "release": running.release.version if running else None,
            "swaps": pipeline.swaps,
        },
        "windows": {
            "received": queue.received,
            "predicted": pipeline.predicted,
            "waiting": len(queue),
            "dropped": queue.dropped,
            "failed": pipeline.failed,
            "unscored": pipeline.unscored,
            "per_second": round(pipeline.predicted / uptime, 2),
            "latency_us": {"p50": round(p50, 1), "p99": round(p99, 1)},
        },
        "last": msgspec.to_builtins(pipeline.last) if pipeline.last else None,
        "stream": pipeline.stream.counters(),
        "sensors": {
            name: {
                "counters": dict(sensor.counters),
                "error": parts.sensor_errors.get(name),
                "first_malformed": getattr(sensor, "first_malformed", "") or None,
                "last_refusal": getattr(sensor, "last_refusal", "") or None,
            }
            for name, sensor in parts.sensors.items()
        },
        "outputs": {
            name: {"errors": pipeline.output_errors.get(name, 0), "unsent": getattr(output, "unsent", 0)}
            for name, output in pipeline.outputs.items()
        },
        "memory": {"rss": rss, "pss": pss},
    }
    if pipeline.store is not None:
        counts = pipeline.store.counts()
        answer["store"] = {
            "windows": counts.windows,
            "labelled": counts.labelled,
            "new": counts.new,
            "error": pipeline.store_error,
        }
    if parts.workshop is not None:
        workshop = parts.workshop
        answer["training"] = {
            "trainings": workshop.trainings,
            "running": workshop.child.pid,
            "refused": workshop.refused,
            "last": msgspec.to_builtins(workshop.last) if workshop.last else None,
        }
    if parts.local is not None:
        int8 = parts.local.int8
        answer["schedule"] = {
            "phase": parts.local.phase,
            "int8": msgspec.to_builtins(msgspec.structs.replace(int8, normal=None)) if int8 else None,
        }
    if parts.rounds is not None:
        participant = parts.rounds.participant
        answer["rounds"] = {
            "phase": participant.phase,
            "version": participant.held.version,
            "done": participant.done_round,
            "deltas": parts.rounds.deltas,
            "outbox": participant.outbox,
            "last_refusal": participant.last_refusal,
            "refused_messages": participant.refusals,
        }
    if parts.link is not None:
        answer["link"] = {
            "connected": parts.link.connected,
            "bytes_out": parts.link.bytes_out,
            "bytes_in": parts.link.bytes_in,
        }
    answer["release"] = releases(parts)
    if parts.watcher is not None:
        answer["modes"] = parts.watcher.modes_status()
        answer["watch"] = parts.watcher.status(parts.loop.clock())
    if parts.renewal is not None:
        renewal, now = parts.renewal, time.time()
        answer["identity"] = {
            "name": renewal.identity.subject.name,
            "expires": renewal.identity.expires,
            "days_left": round((renewal.identity.expires - now) / 86400, 2),
            "renews_at": renewal.wake_at,
            "renews_by": renewal.url or None,
            "error": renewal.error or None,
        }
    return answer


def releases(parts: Parts) -> dict[str, Any]:
    """What runs, how far the last release is, what is refused and why; for ``marram releases``."""
    machine, updater = parts.installation.machine, parts.updater
    running, committed = machine.running, machine.state.committed
    stage, target, reason, since = machine.report()
    return {
        "running": running.release.target if running else None,
        "confirmed": running.confirmed if running else None,
        "previous": machine.state.previous.release.target if machine.state.previous else None,
        "overruled": committed.release.target if committed is not None and running is None else None,
        "stage": stage,
        "release": target or None,
        "reason": reason or None,
        "since": since or None,
        "held": parts.hold.reason(),
        "refused": {one.target: one.reason for one in machine.state.refused if one.sha256 in machine.refused},
        "followed": updater is not None and updater.followed,
        "checked": (updater.checked or None) if updater else None,
        "problem": (updater.problem or None) if updater else None,
        "trial": _trial(updater) if updater and stage == "trial" else None,
        "child": (updater.look.pid or updater.trying.pid) if updater else None,
    }


def _trial(updater: Updater) -> dict[str, Any]:
    """What the candidate showed so far. skipped: windows that came faster than it can be tried on them."""
    return {**msgspec.to_builtins(updater.trying.measured), "skipped": updater.trying.skipped}


def releases_text(answer: dict[str, Any]) -> str:
    """``marram releases`` for a terminal."""
    lines = [f"running   {answer['running'] or 'the configured bundle'}"]
    if answer["confirmed"] is False:
        lines[0] += " (not confirmed yet)"
    if answer["overruled"]:
        lines.append(f"set aside {answer['overruled']}: the configuration names another bundle than then")
    if answer["previous"]:
        lines.append(f"before    {answer['previous']}")
    if answer["release"]:
        when = f" since {time.strftime('%Y-%m-%d %H:%M', time.localtime(answer['since']))}"
        reason = f": {answer['reason']}" if answer["reason"] else ""
        lines.append(
            f"last      {answer['release']} {answer['stage']}{when if answer['since'] else ''}{reason}"
        )
    if answer["trial"]:
        trial = answer["trial"]
        lines.append(f"trial     {trial['windows']} windows, {trial['agreed']} of {trial['compared']} alike")
    if answer["held"] is not None:
        lines.append(f"held      {answer['held']}")
    if not answer["followed"]:
        lines.append("followed  no: this device has no cloud, or no root.json to trust releases by")
    elif answer["checked"]:
        lines.append(f"checked   {time.strftime('%Y-%m-%d %H:%M', time.localtime(answer['checked']))}")
    if answer["problem"]:
        lines.append(f"problem   {answer['problem']}")
    lines += [f"refused   {target}: {reason}" for target, reason in answer["refused"].items()]
    return "\n".join(lines)


def text(answer: dict[str, Any]) -> str:
    """The status as a few lines for a terminal."""
    windows, model = answer["windows"], answer["model"]
    lines = [
        f"{answer['device']}  up {answer['uptime']:.0f} s  "
        f"memory {answer['memory']['pss'] / 2**20:.0f} MiB PSS ({answer['memory']['rss'] / 2**20:.0f} RSS)",
        f"model     {model['name'] or _no_model(answer)}",
        *([f"runtime   {model['runtime']}: {model['why']}"] if model["runtime"] else []),
        f"windows   {windows['predicted']} predicted ({windows['per_second']} a second), "
        f"{windows['waiting']} waiting, {windows['dropped']} dropped, {windows['failed']} failed",
        f"latency   {windows['latency_us']['p50']:.0f} us median, {windows['latency_us']['p99']:.0f} us p99",
    ]
    lines += [f"mode      {name}: {mode['reason']}" for name, mode in answer.get("modes", {}).items()]
    if "watch" in answer:
        lines.append(_watched(answer["watch"]))
    last = answer["last"]
    if last:
        causes = ", ".join(f"{cause['channel']} {cause['share']:.0%}" for cause in last.get("causes", ()))
        score = (
            f" score {last['score']:.4g} (limit {last.get('threshold') or 0:.4g})" if "score" in last else ""
        )
        lines.append(f"last      {last['label']}{score}{'  from ' + causes if causes else ''}")
    if "store" in answer:
        unknown = answer["stream"]["unknown_labels"]
        lines.append(
            f"store     {answer['store']['windows']} windows, {answer['store']['labelled']} labelled"
            + (f"; {unknown} labels are unknown to the model" if unknown else "")
            + (f"; {answer['store']['error']}" if answer["store"]["error"] else "")
        )
    if "schedule" in answer:
        lines.append(f"learning  {answer['schedule']['phase']}")
        lines += _int8(answer["schedule"].get("int8"))
    if "rounds" in answer:
        rounds = answer["rounds"]
        lines.append(
            f"rounds    {rounds['phase']}; parameters {rounds['version']}, {rounds['deltas']} deltas, "
            f"{rounds['outbox']} in the outbox"
        )
    if "link" in answer:
        link = answer["link"]
        lines.append(
            f"link      {'connected' if link['connected'] else 'not connected'}, "
            f"{link['bytes_out']} bytes out, {link['bytes_in']} bytes in"
        )
    release = answer["release"]
    lines.append(f"release   {release['running'] or 'the configured bundle'}; {release['stage']}")
    if "identity" in answer:
        lines += _identity(answer["identity"])
    for name, sensor in answer["sensors"].items():
        lines += [
            f"sensor    {name}: {words}{sensor[key]}"
            for key, words in (
                ("error", ""),
                ("last_refusal", "the broker refused: "),
                ("first_malformed", f"{sensor['counters'].get('malformed')} malformed, the first: "),
            )
            if sensor[key]
        ]
    return "\n".join(lines)


def _int8(outcome: dict[str, Any] | None) -> list[str]:
    """Which form of what the device learnt runs, and why."""
    if outcome is None:
        return []
    if not outcome["used"]:
        return [f"int8      not used: {outcome['reason']}"]
    parts = [
        f"int8      says the same as float32 of {outcome['agreement']:.1%} of {outcome['windows']} windows"
    ]
    if outcome["fp32"] is not None:
        parts.append(f"accuracy {outcome['int8']:.3f}, float32 {outcome['fp32']:.3f}")
    if outcome["score"] is not None:
        parts.append(f"scores are off by {outcome['score']:.1%}")
    if outcome["int8_us"] is not None:
        parts.append(f"{outcome['int8_us']:.0f} us for a window, float32 {outcome['fp32_us']:.0f}")
    return ["; ".join(parts)]


def _no_model(answer: dict[str, Any]) -> str:
    return "none" if "broken-model" in answer.get("modes", {}) else "none yet: the device is still learning"


def _watched(watch: dict[str, Any]) -> str:
    degrees, limit = watch["degrees"], watch["writes_per_day"]
    parts = [f"{degrees:.0f} degC" if degrees is not None else "temperature unknown"]
    if watch["under_voltage"]:
        parts.append("under-voltage")
    if watch["duty"] < 1:
        parts.append(f"inference at {watch['duty']:.0%} duty")
    if watch["training_paused"]:
        parts.append(f"training paused ({watch['training_paused']})")
    written = f"{watch['written_today'] / 2**20:.1f} MiB written today"
    return f"machine   {', '.join(parts)}; {written}" + (f" of {limit / 2**20:.0f} allowed" if limit else "")


def _identity(identity: dict[str, Any]) -> list[str]:
    days = identity["days_left"]
    ends = f"certificate ends in {days:.1f} days" if days > 0 else f"certificate ended {-days:.1f} days ago"
    if identity["renews_by"] is None:
        ends += "; no enrolment server is known that could renew it"
    lines = [f"identity  {identity['name']}, {ends}"]
    return [*lines, f"          not renewed: {identity['error']}"] if identity["error"] else lines
