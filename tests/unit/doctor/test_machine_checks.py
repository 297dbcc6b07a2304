"""What the doctor says of the machine itself, on trees of /sys and /proc that tests wrote."""

from __future__ import annotations

import importlib
import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from marram import RELEASED
from marram.config.load import load
from marram.config.schema import Agent
from marram.doctor.checks import clock, userland
from marram.doctor.finding import Finding, Severity
from marram.doctor.machine import Machine

from tests.support import trees
from tests.support.configs import HOST_BUNDLE
from tests.support.disk import SmallDisk

OK, NOTE, WARNING, ERROR = Severity


def machine(root: Path, more: str = "", **facts) -> Machine:
    path = root / "marram.yaml"
    path.write_text(
        f"device: {{name: one, state: state}}\nsensors: [{{type: host, name: host}}]\n"
        f"model: {{bundle: {HOST_BUNDLE}}}\n{more}"
    )
    return Machine(path, root=root, config=load(path, Agent), **facts)


def found(name: str, on: Machine) -> list[Finding]:
    return list(importlib.import_module(f"marram.doctor.checks.{name}").check(on))


def severities(findings: list[Finding]) -> list[Severity]:
    return [one.severity for one in findings]


# ---- clock


@pytest.mark.parametrize(
    ("now", "severity"), [(0.0, ERROR), (RELEASED + 1, OK), (RELEASED + 30 * 365 * 86400, ERROR)]
)
def test_a_clock_before_what_has_passed_or_far_ahead_is_an_error(tmp_path, monkeypatch, now, severity):
    monkeypatch.setattr(clock, "_synchronised", lambda: True)
    findings = found("clock", machine(tmp_path, now=now))
    assert severities(findings) == [severity, OK]
    assert severity is OK or "set it" in findings[0].todo


def test_the_clock_is_held_against_the_newest_signed_word_of_the_repository(tmp_path):
    (tmp_path / "state/releases").mkdir(parents=True)
    (tmp_path / "state/releases/state.json").write_text(f'{{"floor": {RELEASED + 9000}}}')
    finding = found("clock", machine(tmp_path, now=RELEASED + 1))[0]
    assert finding.severity is ERROR
    assert "the newest signed word of the release repository" in finding.found


@pytest.mark.parametrize(("synchronised", "severities_"), [(False, [OK, WARNING]), (None, [OK])])
def test_a_clock_that_nothing_keeps_right_is_a_warning(tmp_path, monkeypatch, synchronised, severities_):
    monkeypatch.setattr(clock, "_synchronised", lambda: synchronised)
    assert severities(found("clock", machine(tmp_path, now=RELEASED + 1))) == severities_


# ---- disk and wear


def test_a_disk_with_room_is_fine_and_damaged_files_are_shown(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "windows.db.damaged-17").touch()
    findings = found("disk", machine(tmp_path))
    assert severities(findings)[1:] == [WARNING]
    assert findings[1].name.endswith("windows.db.damaged-17")


def test_a_full_disk_and_one_that_is_read_only_are_errors(tmp_path):
    small = SmallDisk(tmp_path / "state")
    with ExitStack() as stack:
        try:
            stack.enter_context(small)
        except (OSError, FileNotFoundError):
            pytest.skip("mounting is not allowed here")
        one = machine(tmp_path)
        small.fill()
        assert severities(found("disk", one)) == [ERROR]
        assert os.system(f"mount -o remount,ro {tmp_path}/state") == 0
        finding = found("disk", one)[0]
        assert (finding.severity, finding.found) == (ERROR, "is mounted read-only")


@pytest.mark.parametrize(
    ("life", "pre_end", "wanted"),
    [
        ("0x01 0x02", "0x01", [OK]),
        ("0x01 0x09", "0x01", [WARNING]),
        ("0x0b 0x01", "0x02", [ERROR, WARNING]),
        ("0x01 0x01", "0x03", [OK, ERROR]),
        ("0x00 0x00", "0x00", [NOTE]),
        ("", "", [NOTE]),
    ],
)
def test_the_wear_of_an_emmc_is_judged_by_what_it_says(tmp_path, life, pre_end, wanted):
    device = "sys/block/mmcblk0/device"
    trees.write(
        tmp_path, {f"{device}/type": "MMC", f"{device}/life_time": life, f"{device}/pre_eol_info": pre_end}
    )
    trees.write(tmp_path, {"sys/block/mmcblk0boot0/device/life_time": "0x0b 0x0b"})
    assert severities(found("wear", machine(tmp_path))) == wanted


def test_a_card_that_made_itself_read_only_is_an_error(tmp_path):
    trees.write(tmp_path, {"sys/block/mmcblk0/ro": "1", "sys/block/mmcblk0/device/type": "SD"})
    assert severities(found("wear", machine(tmp_path))) == [ERROR, NOTE]


# ---- memory, processor, userland

LEARNING = "learning: {trainer: {memory: 400MiB}}\n"


@pytest.mark.parametrize(
    ("free", "running", "severity"),
    [(2048, False, OK), (300, False, WARNING), (50, False, ERROR), (50, True, WARNING)],
)
def test_memory_is_held_against_what_the_daemon_and_its_children_take(tmp_path, free, running, severity):
    trees.write(tmp_path, {"proc/meminfo": f"MemTotal: {4096 * 1024} kB\nMemAvailable: {free * 1024} kB"})
    one = machine(tmp_path, LEARNING, status={} if running else None)
    assert severities(found("memory", one)) == [severity]


def test_a_machine_without_proc_is_told_so(tmp_path):
    assert severities(found("memory", machine(tmp_path))) == [WARNING]


@pytest.mark.parametrize(
    ("line", "severity", "named"),
    [
        ("flags\t\t: fpu avx2 avx512_vnni", OK, "AVX512-VNNI"),
        ("flags\t\t: fpu avx2", NOTE, "AVX2"),
        ("Features\t: fp asimd asimddp", OK, "NEON dot product"),
        ("Features\t: fp asimd evtstrm", NOTE, "NEON"),
        ("model name\t: something", NOTE, "no vector"),
    ],
)
def test_the_instructions_for_int8_are_named(tmp_path, line, severity, named):
    trees.write(tmp_path, {"proc/cpuinfo": f"processor\t: 0\n{line}\n"})
    [finding] = found("processor", machine(tmp_path))
    assert finding.severity is severity
    assert named in finding.found


@pytest.mark.parametrize(
    ("kernel", "bits", "severity", "advice"),
    [
        ("aarch64", 64, OK, ""),
        ("aarch64", 32, ERROR, "64-bit edition"),
        ("armv7l", 32, ERROR, "Marram runs on"),
        ("riscv64", 64, ERROR, "Marram runs on"),
    ],
)
def test_only_64_bit_systems_of_two_kinds_will_do(kernel, bits, severity, advice):
    finding = userland.judge(kernel, bits)
    assert finding.severity is severity
    assert advice in finding.todo


# ---- heat and power


def test_heat_throttling_and_a_weak_supply_are_found(tmp_path):
    files = trees.zone(0, "cpu-thermal", 82, passive=85) | trees.cooling(0, "cpufreq-cpu0", 2, 5)
    files |= trees.cooling(1, "pwm-fan", 1, 4) | trees.supply(True)
    files["sys/devices/platform/soc/soc:firmware/get_throttled"] = "4"
    findings = found("thermal", machine(trees.write(tmp_path, files)))
    assert [(one.name, one.severity) for one in findings] == [
        ("cpu-thermal", WARNING),
        ("cpufreq-cpu0", WARNING),
        ("pwm-fan", OK),
        ("firmware", WARNING),
        ("power", ERROR),
    ]


def test_a_zone_that_the_board_names_and_the_machine_lacks_is_noticed(tmp_path):
    trees.write(tmp_path, trees.zone(0, "cpu-thermal", 50))
    one = machine(tmp_path, "board: {thermal_zones: [cpu-thermal, gpu-thermal]}\n")
    cpu, named = found("thermal", one)
    assert (cpu.severity, named.severity) == (OK, WARNING)
    assert "gpu-thermal: this machine has no such zone" in named.found


def test_a_cool_machine_is_fine_and_one_without_sensors_is_a_note(tmp_path):
    assert severities(found("thermal", machine(tmp_path))) == [NOTE]
    trees.write(tmp_path, trees.zone(0, "cpu-thermal", 50, passive=85) | trees.supply(False))
    assert severities(found("thermal", machine(tmp_path))) == [OK]
