# SPDX-License-Identifier: MIT
"""The hardware handoff file that PYNQ reads beside a bitstream, for a design that no vendor tool has seen.

It holds what PYNQ's parser asks of one: the processor with its clocks, and the circuit with its name, type, address
and range. Vivado writes its own.
"""

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from bitstreams.boards import Board, Clock
from hw.registers import WINDOW_BYTES

CELL = "spikeloop"
"""Name of the circuit in an overlay: `Overlay(...).spikeloop`."""

MODULE = "spikeloop_axi"

VLNV = f"xilinx.com:module_ref:{MODULE}:1.0"
"""Type of the circuit, which a PYNQ driver binds to; Vivado gives a module reference the same."""


def _clock_parameters(clock: Clock) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for index in range(4):
        parameters |= {
            f"PCW_FPGA_FCLK{index}_ENABLE": "0" if index else "1",
            f"PCW_FCLK{index}_PERIPHERAL_CLKSRC": "IO PLL",
            f"PCW_FCLK{index}_PERIPHERAL_DIVISOR0": str(clock.divisor0),
            f"PCW_FCLK{index}_PERIPHERAL_DIVISOR1": str(clock.divisor1),
        }
    return parameters | {"PCW_FPGA0_PERIPHERAL_FREQMHZ": str(clock), "PCW_USE_M_AXI_GP0": "1"}


def _module(
    modules: Element, name: str, kind: str, vlnv: str, parameters: dict[str, str], port: str, role: str
) -> Element:
    module = SubElement(
        modules,
        "MODULE",
        {"FULLNAME": f"/{name}", "INSTANCE": name, "IS_PL": "TRUE", "MODTYPE": kind, "VLNV": vlnv}
        | {"HWVERSION": vlnv.split(":")[-1]},
    )
    listed = SubElement(module, "PARAMETERS")
    for key, value in parameters.items():
        SubElement(listed, "PARAMETER", {"NAME": key, "VALUE": value})
    SubElement(module, "PORTS")
    interfaces = SubElement(module, "BUSINTERFACES")
    bus = {"BUSNAME": f"ps_{port}", "NAME": port, "TYPE": role, "VLNV": "xilinx.com:interface:aximm:1.0"}
    SubElement(SubElement(interfaces, "BUSINTERFACE", bus), "PORTMAPS")
    return module


def handoff(board: Board, clock: Clock) -> str:
    """Return the .hwh of the circuit behind a Zynq-7000's M_AXI_GP0."""
    root = Element("EDKSYSTEM", {"EDWVERSION": "1.2", "TIMESTAMP": ""})
    device, package = board.part[:7], board.part[7:].split("-")[0]
    facts = {"ARCH": "zynq", "DEVICE": device, "NAME": CELL, "PACKAGE": package, "SPEEDGRADE": board.part[-2:]}
    SubElement(root, "SYSTEMINFO", facts)
    SubElement(root, "EXTERNALPORTS")
    SubElement(root, "EXTERNALINTERFACES")
    modules = SubElement(root, "MODULES")
    ps = _module(
        *(modules, "ps", board.ps, f"xilinx.com:ip:{board.ps}:5.5"), _clock_parameters(clock), board.ps_port, "MASTER"
    )
    window = {
        **{"ADDRESSBLOCK": "reg0", "BASENAME": "C_BASEADDR", "HIGHNAME": "C_HIGHADDR", "INSTANCE": CELL},
        **{"BASEVALUE": f"0x{board.base:08X}", "HIGHVALUE": f"0x{board.base + WINDOW_BYTES - 1:08X}"},
        **{"IS_DATA": "TRUE", "IS_INSTRUCTION": "TRUE", "MEMTYPE": "REGISTER"},
        **{"MASTERBUSINTERFACE": board.ps_port, "SLAVEBUSINTERFACE": "s_axi"},
    }
    SubElement(SubElement(ps, "MEMORYMAP"), "MEMRANGE", window)
    _module(modules, CELL, MODULE, VLNV, {}, "s_axi", "SLAVE")
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
