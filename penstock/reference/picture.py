"""The reference table as a picture: packets per second by frame size, a panel for each number of VMs and of flows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from penstock.reference.measure import Figures
from penstock.reference.table import reference

COLOURS = {"2016": "#9a9a9a", "open vswitch": "#d98032", "penstock": "#2f6db5", "one": "#9cc3ea"}
NAMES = {
    "2016": "2016, 12 cores",
    "open vswitch": "Open vSwitch with DPDK",
    "penstock": "Penstock",
    "one": "Penstock, one tunnel, VNI and MAC",
}


def draw(found: Figures, file: Path) -> None:
    """Write a PNG. Raises ClickException when the library that draws is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise click.ClickException(f"--picture needs matplotlib: pip install 'penstock[picture]' ({error})") from error
    cells = list(next(iter(found.samples.values())))
    vms, flows = sorted({cell.vms for cell in cells}), sorted({cell.flows for cell in cells})
    figure = Figure(figsize=(4.2 * len(vms), 3.2 * len(flows) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(flows), len(vms), squeeze=False, sharey=True)
    for row, of in enumerate(flows):
        for column, count in enumerate(vms):
            here = [cell for cell in cells if cell.vms == count and cell.flows == of]
            _panel(panels[row][column], found, here)
            panels[row][column].set_title(
                f"{count} VM{'s' if count > 1 else ''}, {of} flow{'s' if of > 1 else ''} each"
            )
        panels[row][0].set_ylabel("million packets/s")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle("VMs to the network in VXLAN: 10,667 far ends, 350,000 VNIs, 15,000 MAC addresses")
    figure.savefig(file, dpi=120)


def _panel(axes: Any, found: Figures, cells: list[Any]) -> None:
    order = [name for name in NAMES if name == "2016" or name in found.samples]
    width = 0.8 / len(order)
    for number, name in enumerate(order):
        if name == "2016":
            values = [(reference(cell) or 0) / 1e6 for cell in cells]
        else:
            values = [found.median(name, cell).pps / 1e6 for cell in cells]
        places = [index + (number - (len(order) - 1) / 2) * width for index in range(len(cells))]
        axes.bar(places, values, width, color=COLOURS[name], label=NAMES[name])
    axes.set_xticks(range(len(cells)), [f"{cell.size} B" for cell in cells])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6")
    axes.set_axisbelow(True)
