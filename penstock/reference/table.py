"""The reference table as text: this machine's figures beside those of 2016."""

from __future__ import annotations

from io import StringIO

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from penstock.reference.measure import SATURATED, Cell, Figures
from penstock.reference.scale import GAP

# By VMs and frame size: packets per second of the system of 2016, Open vSwitch in user space on two 6-core Xeons.
REFERENCE_PPS = {
    1: {128: 274_355, 512: 182_049, 1024: 187_008, 1518: 178_362},
    4: {128: 653_746, 512: 597_685, 1024: 531_861, 1518: 532_352},
    6: {128: 1_021_211, 512: 895_388, 1024: 750_891, 1518: 669_144},
}
WIDTH = 150


def megabits(pps: float, size: int) -> float:
    """Mb/s on the wire, preamble and gap included, as the reference counts."""
    return pps * (size + GAP) * 8 / 1e6


def reference(cell: Cell) -> int | None:
    """The reference's packets per second; it has one flow per VM."""
    return REFERENCE_PPS.get(cell.vms, {}).get(cell.size)


def tables(found: Figures) -> str:
    """All of it."""
    console = Console(file=StringIO(), width=WIDTH, emoji=False)
    flows = dict.fromkeys(cell.flows for cells in found.samples.values() for cell in cells)
    for number in flows:
        console.print(_table(found, number))
    console.print(_set_up(found))
    file = console.file
    assert isinstance(file, StringIO)
    return file.getvalue()


def _table(found: Figures, flows: int) -> Table:
    made = Table(title=f"VMs to the network in VXLAN, {flows} flow(s) of each VM, medians", box=SIMPLE)
    subjects = list(found.samples)
    made.add_column("VMs", justify="right")
    made.add_column("frame", justify="right")
    for heading in ("2016, pps", *(f"{name}, pps" for name in subjects), "Mb/s", "over 2016", "cycles", "worker"):
        made.add_column(heading, justify="right")
    if "open vswitch" in subjects:
        made.add_column("cycles over OVS", justify="right")
    if "one" in subjects:
        made.add_column("over one", justify="right")
    first = subjects[0]
    for cell in (each for each in found.samples[first] if each.flows == flows):
        mine = found.median(first, cell)
        then = reference(cell)
        row = [str(cell.vms), str(cell.size), f"{then:,}" if then else ""]
        row += [f"{found.median(name, cell).pps:,.0f}" for name in subjects]
        row += [f"{megabits(mine.pps, cell.size):,.0f}", f"{mine.pps / then:.1f}" if then else ""]
        row += [f"{mine.cycles:.0f}", f"{100 * mine.load:.0f} %" + ("" if mine.load > SATURATED else ", guests limit")]
        if "open vswitch" in subjects:
            row.append(f"{found.ratio('open vswitch', cell, 'cycles', first):.2f}")
        if "one" in subjects:
            row.append(f"{found.ratio('one', cell, 'pps', first):.2f}")
        made.add_row(*row)
    return made


def _set_up(found: Figures) -> Table:
    made = Table(title="setting up", box=SIMPLE)
    steps = list(dict.fromkeys(step for each in found.set_up.values() for step in each.seconds))
    for heading in ("switch", *(f"{step}, s" for step in steps), "together, s", "memory, MB"):
        made.add_column(heading, justify="left" if heading == "switch" else "right")
    for name, each in found.set_up.items():
        seconds = [f"{each.seconds.get(step, 0.0):.1f}" for step in steps]
        made.add_row(name, *seconds, f"{sum(each.seconds.values()):.1f}", f"{each.memory_bytes >> 20}")
    return made
