"""Which board is this? By the device tree's compatible strings, or by what the firmware says of a PC (DMI).

Sources: the compatible strings of the boards' device trees in the kernel (arch/arm64/boot/dts).
"""

from __future__ import annotations

from pathlib import Path

from marram.config.layers import SHIPPED
from marram.device.thermal import read

_COMPATIBLE = (
    ("raspberrypi,5", "raspberry-pi-5"),
    ("raspberrypi,4", "raspberry-pi-4"),
    ("nvidia,p3767", "jetson-orin-nano"),
    ("nvidia,p3768", "jetson-orin-nano"),
    ("fsl,imx8mp", "imx8m-plus"),
    ("beagle,am625-beagleplay", "beagleplay"),
    ("rockchip,rk3588", "rk3588"),
)
_VIRTUAL = (
    "QEMU", "VMware", "innotek", "Xen", "Amazon EC2", "Google", "Microsoft Corporation Virtual", "KVM",
    "Parallels", "Bochs",
)  # fmt: skip


def find(root: Path) -> tuple[str, str]:
    """(name of the board's YAML or "", what the machine calls itself)."""
    compatible = read(root / "proc/device-tree/compatible").split("\0")
    model = read(root / "proc/device-tree/model")
    for begin, board in _COMPATIBLE:
        if any(one.startswith(begin) for one in compatible):
            return board, model or board
    dmi = root / "sys/class/dmi/id"
    said = " ".join(text for name in ("sys_vendor", "product_name") if (text := read(dmi / name)))
    if "hypervisor" in _flags(root) or said.startswith(_VIRTUAL):
        return "virtual-machine", said or "a virtual machine"
    return ("x86-64-industrial", said) if said else ("", model)


def available(config: Path) -> dict[str, Path]:
    """The boards that a configuration file may extend by name, as ``config.layers`` looks for them."""
    folder = config.absolute().parent
    found: dict[str, Path] = {}
    for place in (folder, folder.parent, SHIPPED):
        for path in sorted((place / "boards").glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def _flags(root: Path) -> list[str]:
    for line in read(root / "proc/cpuinfo").splitlines():
        if line.startswith("flags"):
            return line.split()
    return []
