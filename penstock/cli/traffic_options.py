"""What `generate` and `receive` share: options made from declarations, ports in one word, results in print."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from penstock.cli.output import print_json, si
from penstock.switch.errors import unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.config.schema import Setting
    from penstock.traffic.histogram import Latency
    from penstock.traffic.trial import Moment, Result

F = Callable[..., Any]
FELL_BEHIND = 0.01  # part of its time by which a generator may be behind without a word


class PortWord(NamedTuple):
    """A port as the command line names it: its kind and its options, checked."""

    kind: str
    options: dict[str, Any]
    mtu: int | None


class PortType(click.ParamType[PortWord]):
    """KIND:KEY=VALUE,KEY=VALUE ...; the keys are the kind's in the configuration file, and `mtu`."""

    name = "KIND:KEY=VALUE,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> PortWord:
        from penstock.config.schema import REQUIRED, settings_of
        from penstock.traffic.endpoint import KINDS

        kind, _, rest = str(value).partition(":")
        if kind not in KINDS:
            self.fail(unknown("kind of port", kind, KINDS), param, ctx)
        given = dict(part.partition("=")[::2] for part in rest.split(",") if part)
        mtu = given.pop("mtu", None)
        settings = settings_of(KINDS[kind].Options)
        for key in given:
            if key not in settings:
                self.fail(unknown(f"option of {kind}", key, [*settings, "mtu"]), param, ctx)
        options = {key: _checked(settings[key], text, self.fail) for key, text in given.items()}
        for key, setting in settings.items():
            if setting.default is REQUIRED and key not in options:
                self.fail(f"{kind} needs {key}=VALUE: {setting.sentence}", param, ctx)
        if mtu is not None and not mtu.isdecimal():
            self.fail(f"mtu '{mtu}' is wrong: must be a number of bytes", param, ctx)
        return PortWord(kind, options, int(mtu) if mtu else None)


def _checked(setting: Setting, text: str, fail: Callable[[str], Any]) -> Any:
    """A value written as text, in the setting's own type; items of a list are joined by +."""
    from pydantic import ValidationError

    try:
        if setting.allowed.startswith("a list"):
            return setting.adapter.validate_python(tuple(word for word in text.split("+") if word))
        return setting.adapter.validate_strings(text)
    except ValidationError:
        return fail(f"{setting.key} '{text}' is wrong: must be {setting.allowed}")


class DeclaredCommand(click.Command):
    """A command with an option for each setting of some dataclasses, named as "module:Class".

    They are imported when the options are asked for, since what lies beside them imports Numba.
    """

    def __init__(self, *arguments: Any, declared: tuple[str, ...], **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self._names = declared

    @cached_property
    def _declared(self) -> list[click.Parameter]:
        from penstock.config.schema import settings_of

        classes = [getattr(import_module(name.partition(":")[0]), name.partition(":")[2]) for name in self._names]
        return [_option(setting) for each in classes for setting in settings_of(each).values()]

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *self._declared]


def _option(setting: Setting) -> click.Parameter:
    def convert(_ctx: click.Context, param: click.Parameter, text: str | None) -> Any:
        def fail(message: str) -> Any:
            raise click.BadParameter(message, param=param)

        return setting.default if text is None else _checked(setting, text, fail)

    help_text = setting.sentence if setting.default is None else f"{setting.sentence} [default: {setting.default}]"
    name = "--" + setting.key.replace("_", "-")
    return click.Option([name, setting.key], callback=convert, metavar="VALUE", help=help_text)


def from_options(declared: type, options: dict[str, Any]) -> Any:
    """A declared dataclass from a verb's options."""
    from penstock.config.schema import settings_of

    return declared(**{key: options[key] for key in settings_of(declared) if key in options})


def cpus_option(function: F) -> F:
    """--cpus, handed to the verb as a list of numbers."""

    def convert(_ctx: click.Context, param: click.Parameter, text: str) -> list[int]:
        words = [word for word in text.split(",") if word]
        usable = os.sched_getaffinity(0)
        for word in words:
            if not word.isdecimal() or int(word) not in usable:
                raise click.BadParameter(f"'{word}' is none of the CPUs {sorted(usable)}", param=param)
        return [int(word) for word in words]

    return click.option(
        "--cpus", default="", callback=convert, help="CPUs for a thread each, as 1 or 0,1; one thread anywhere if none."
    )(function)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn what a port, the arena or a stream complains about into one sentence and exit code 1."""
    from penstock.traffic.session import ERRORS

    try:
        yield
    except ERRORS as error:
        sys.exit(f"penstock: {error}")


def end_on_signals(stop: Callable[[], None]) -> None:
    """Have Ctrl-C and SIGTERM end the run with its summary."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # A shell starts background jobs with SIGINT ignored, so that it ends only what is in front.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: stop())


def live_line(earlier: Moment, now: Moment) -> None:
    """One line for the last second, on standard error."""
    seconds = now.at - earlier.at
    parts = []
    if now.sent:
        parts.append(f"sent {si((now.sent - earlier.sent) / seconds)}pps")
    if now.received:
        parts.append(f"received {si((now.received - earlier.received) / seconds)}pps")
    parts.append(f"{si(8 * (now.octets - earlier.octets) / seconds)}b/s")
    if now.missing:
        parts.append(f"missing {now.missing}")
    click.echo(", ".join(parts), err=True)


def print_result(result: Result, as_json: bool) -> None:
    """The summary."""
    if as_json:
        print_json(result.to_json())
        return
    rows: list[tuple[str, str]] = []
    if sent := result.sent:
        rows.append(("sent", f"{sent.frames} frames, {sent.octets} bytes in {sent.seconds:.3f} s"))
        rows.append(("rate", f"{si(sent.frames_per_second)} frames/s, {si(sent.bits_per_second)} bit/s"))
        if sent.refused:
            rows.append(("refused", f"{sent.refused} times, the port's ring being full"))
        if sent.fell_behind > FELL_BEHIND * sent.seconds:
            rows.append(("fell behind", f"{sent.fell_behind:.3f} s: the generator was too slow for its rate"))
        dropped = ", ".join(f"{count} {name}" for name, count in sent.dropped.items() if name != "tx_ring_full")
        if dropped:
            rows.append(("dropped", dropped))
    if got := result.received:
        rows.append(("received", f"{got.received} frames, {got.octets} bytes"))
        rows.append(("lost", str(result.lost)))
        for name in ("duplicates", "reordered", "late", "foreign", "untracked", "replied"):
            if count := getattr(got, name):
                rows.append((name, str(count)))
        if got.latency:
            rows.append(("latency", latency_text(got.latency)))
    for name, text in rows:
        click.echo(f"{name:<12}{text}")


def latency_text(latency: Latency) -> str:
    """Percentiles in microseconds."""
    values = {key: value / 1000 for key, value in asdict(latency).items() if key != "count"}
    names = {"p99": "99 %", "p999": "99.9 %"}
    return ", ".join(f"{names.get(key, key)} {value:.2f}" for key, value in values.items()) + " µs"
