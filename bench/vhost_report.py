"""The vhost cases as tables and verdicts: what each switch did, Penstock's ratios to it, and who was the limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from rich.box import SIMPLE
from rich.table import Table

from bench.outcome import Outcome, Spread, ratios, spread
from bench.vhost import Sample, measure
from bench.vhost_cases import Case

PENSTOCK, OVS = "penstock", "open vswitch"
SATURATED = 0.9  # a worker that is busy for more of its time than this is the limit of what passes
COLUMNS = ("switch", "Mpps", "busy cycles/packet", "limit, load", "guest", "Mpps ratio", "cycles ratio")


@dataclass(frozen=True)
class Row:
    """One switch in one case. `faster` and `cheaper` are Penstock's throughput and cycles over this switch's."""

    pps: Spread
    cycles: Spread
    load: Spread
    guest_cycles: Spread
    limit: str
    faster: Spread | None
    cheaper: Spread | None


def run(
    cases: Sequence[Case], switches: Sequence[str], rounds: int, seconds: float, progress: Callable[[str], None]
) -> Outcome:
    """Measure and judge."""
    samples = measure(cases, switches, rounds, seconds, progress)
    rows = {name: by_switch(of) for name, of in samples.items()}
    figures = {
        case.name: {
            "title": case.title,
            "switches": {switch: asdict(each) for switch, each in rows[case.name].items()},
            "samples": {switch: [asdict(one) for one in each] for switch, each in samples[case.name].items()},
        }
        for case in cases
    }
    tables = [table(cases, rows, rounds, seconds)]
    return Outcome(figures, tables, [sentence for case in cases for sentence in unmet(case, rows, samples)])


def by_switch(samples: dict[str, list[Sample]]) -> dict[str, Row]:
    ours = samples.get(PENSTOCK, [])
    return {name: row(each, [] if name == PENSTOCK else ours) for name, each in samples.items()}


def row(samples: Sequence[Sample], ours: Sequence[Sample]) -> Row:
    pps, cycles = [sample.pps for sample in samples], [sample.cycles for sample in samples]
    load = spread([sample.load for sample in samples])
    return Row(
        pps=spread(pps),
        cycles=spread(cycles),
        load=load,
        guest_cycles=spread([sample.guest_cycles for sample in samples]),
        limit="switch" if load.median > SATURATED else "guest",
        faster=ratios([sample.pps for sample in ours], pps) if ours else None,
        cheaper=ratios([sample.cycles for sample in ours], cycles) if ours else None,
    )


def unmet(case: Case, rows: dict[str, dict[str, Row]], samples: dict[str, dict[str, list[Sample]]]) -> list[str]:
    """What Penstock owes in this case, as far as it was measured."""
    found = []
    ours, peer = rows[case.name].get(PENSTOCK), rows[case.name].get(OVS)
    if ours and peer and peer.faster and peer.cheaper:
        if case.faster is not None and peer.faster.median < case.faster and ours.limit == "switch":
            found.append(f"throughput {peer.faster.median:.2f} times Open vSwitch's, must be at least {case.faster:g}")
        if case.cheaper is not None and peer.cheaper.median > case.cheaper:
            found.append(f"cycles {peer.cheaper.median:.2f} times Open vSwitch's, must be at most {case.cheaper:g}")
    if ours and case.like in rows:
        mine, other = samples[case.name][PENSTOCK], samples[case.like][PENSTOCK]
        cycles = ratios([sample.cycles for sample in mine], [sample.cycles for sample in other]).median
        passed = ratios([sample.pps for sample in mine], [sample.pps for sample in other]).median
        if case.within is not None and cycles > case.within:
            found.append(f"cycles {cycles:.2f} times those of case {case.like}, must be at most {case.within:g}")
        if case.keeps is not None and passed < case.keeps:
            found.append(f"throughput {passed:.2f} times that of case {case.like}, must be at least {case.keeps:g}")
    return [f"{case.title}: {sentence}" for sentence in found]


def table(cases: Sequence[Case], rows: dict[str, dict[str, Row]], rounds: int, seconds: float) -> Table:
    title = f"between two virtio guests, one worker: median (least..most) of {rounds} rounds of {seconds:g} s"
    made = Table(title=title, box=SIMPLE)
    for column in COLUMNS:
        made.add_column(column, justify="left" if column in (COLUMNS[0], COLUMNS[3]) else "right", no_wrap=True)
    for case in cases:
        made.add_row(f"[bold]{case.title}")
        for name, each in rows[case.name].items():
            limit, guest = f"{each.limit}, {100 * each.load.median:.0f} %", f"{each.guest_cycles.median:.0f}"
            compared = (_cell(each.faster), _cell(each.cheaper))
            made.add_row(f"  {name}", _cell(each.pps, 1e6), _cell(each.cycles), limit, guest, *compared)
        made.add_section()
    return made


def _cell(figures: Spread | None, unit: float = 1.0) -> str:
    if figures is None:
        return ""
    median, least, most = (_three_digits(each / unit) for each in (figures.median, figures.least, figures.most))
    return f"{median} ({least}..{most})"


def _three_digits(figure: float) -> str:
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.3g}"
