"""Temperatures, cooling and the power supply, as sysfs tells them."""

from __future__ import annotations

import pytest
from marram.device import thermal
from marram.device.thermal import Cooling, Zone

from tests.support import trees


def test_zones_are_read_with_the_lowest_point_at_which_the_kernel_acts(tmp_path):
    files = trees.zone(0, "cpu-thermal", 61.5, active=55, critical=110, passive=85)
    trees.write(tmp_path, files | trees.zone(1, "ddr-thermal", 40.25))
    assert thermal.zones(tmp_path / "sys") == [Zone("cpu-thermal", 61.5, 85.0), Zone("ddr-thermal", 40.25)]
    assert thermal.zones(tmp_path / "sys", ["ddr-thermal"]) == [Zone("ddr-thermal", 40.25)]


@pytest.mark.parametrize("temperature", ["", "nonsense", "-274000", "255000000"])
def test_a_zone_that_gives_no_temperature_is_left_out(tmp_path, temperature):
    trees.write(tmp_path, trees.zone(0, "a", 50) | trees.zone(1, "b", 0))
    (tmp_path / "sys/class/thermal/thermal_zone1/temp").write_text(temperature)
    assert [zone.name for zone in thermal.zones(tmp_path / "sys")] == ["a"]


def test_a_machine_without_zones_is_measured_by_its_hwmon(tmp_path):
    folder = "sys/class/hwmon/hwmon0"
    trees.write(
        tmp_path,
        {f"{folder}/name": "coretemp", f"{folder}/temp1_input": "47000", f"{folder}/temp1_crit": "100000"},
    )
    assert thermal.zones(tmp_path / "sys") == [Zone("coretemp", 47.0, 100.0)]


def test_a_machine_that_tells_nothing_is_no_error(tmp_path):
    assert thermal.zones(tmp_path) == []
    assert thermal.coolings(tmp_path) == []
    assert thermal.under_voltage(tmp_path) is None
    assert thermal.throttled(tmp_path) == []


def test_only_cooling_that_is_at_work_counts_and_fans_are_told_apart(tmp_path):
    devices = [("thermal-cpufreq-0", 3, 9), ("pwm-fan", 2, 4), ("intel_powerclamp", -1, 50), ("idle", 0, 9)]
    for number, device in enumerate(devices):
        trees.write(tmp_path, trees.cooling(number, *device))
    assert thermal.coolings(tmp_path / "sys") == [
        Cooling("thermal-cpufreq-0", 3, 9, fan=False),
        Cooling("pwm-fan", 2, 4, fan=True),
    ]


@pytest.mark.parametrize("weak", [True, False])
def test_the_supply_is_judged_by_its_alarm(tmp_path, weak):
    trees.write(tmp_path, trees.supply(weak))
    assert thermal.under_voltage(tmp_path / "sys") is weak


def test_the_firmware_of_a_raspberry_pi_says_what_holds_it_back(tmp_path):
    trees.write(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": "50005"})
    assert thermal.under_voltage(tmp_path / "sys") is True
    assert thermal.throttled(tmp_path / "sys") == [
        "under-voltage now", "throttled now", "under-voltage since the start", "throttled since the start",
    ]  # fmt: skip
