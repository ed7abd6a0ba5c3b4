"""The daemon itself: what it can be asked, its log, its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from importlib.metadata import version

from penstock.engine.log_file import SIGNAL, reopen_log
from penstock.ovsdb.appctl.commands import COMMANDS, CommandError, Switch, command
from penstock.ovsdb.publish import VERSION
from penstock.switch.status import SupervisorStatus

# Open vSwitch's levels, as Python has them.
LEVELS = {
    "off": logging.CRITICAL + 1,
    "emer": logging.CRITICAL,
    "err": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "dbg": logging.DEBUG,
}
DESTINATIONS = ("any", "console", "file", "syslog")  # there is one: what the daemon was started with
OURS = "penstock."
END_SECONDS = 0.1  # in which the reply goes out


@command("version")
async def tell_version(_switch: Switch, _words: Sequence[str]) -> str:
    """What Open vSwitch of this kind says, and what this is."""
    return f"ovs-vswitchd (Open vSwitch) {VERSION}\nPenstock {version('penstock')}"


@command("list-commands")
async def list_commands(_switch: Switch, _words: Sequence[str]) -> str:
    """What can be asked."""
    lines = [f"  {each.name:23} {each.usage}".rstrip() for _, each in sorted(COMMANDS.items())]
    return "\n".join(["The available commands are:", *lines])


@command("exit", "[--cleanup]", 0, 1)
async def end(switch: Switch, words: Sequence[str]) -> str:
    """End the daemon: ports and bridges go with it in any case."""
    if words and words[0] != "--cleanup":
        raise CommandError(f"exit: '{words[0]}' is no option: --cleanup")
    supervisor = SupervisorStatus.read(switch.control.rundir)
    pid = supervisor.pid if supervisor is not None else os.getpid()
    asyncio.get_running_loop().call_later(END_SECONDS, os.kill, pid, signal.SIGTERM)
    return ""


@command("set-options", "--format text", 2)
async def set_options(_switch: Switch, words: Sequence[str]) -> str:
    """The form of replies, of which there is one; the package's own would end the thread over a wrong word."""
    if list(words) != ["--format", "text"]:
        raise CommandError(f"set-options: '{' '.join(words)}' is not built: --format text")
    return ""


@command("memory/show")
async def memory_show(switch: Switch, _words: Sequence[str]) -> str:
    """What there is that takes memory, and the engine's memory."""
    info = await switch.call(lambda client: client.info())
    states = await switch.ports()
    hosts = switch.agent.hosts
    counts = {
        "bridges": len(hosts),
        "ports": sum(map(len, states.values())),
        "rules": sum(host.bridge.tables.count for host in hosts.values()),
        "ofconns": sum(len(host.sessions) for host in hosts.values()),
        "arena-kB": info["arena_bytes"] // 1024,
        "arena-used-kB": info["arena_used"] // 1024,
    }
    return " ".join(f"{name}:{count}" for name, count in counts.items())


@command("coverage/show")
async def coverage_show(switch: Switch, _words: Sequence[str]) -> str:
    """Events: rates a second over five seconds, a minute and an hour, and how often in all."""
    rows, never = await switch.coverage.show()
    lines = ["Event coverage, avg rate over last: 5 seconds, last minute, last hour:"]
    for row in rows:
        of_5, of_minute, of_hour = row.rates
        lines.append(f"{row.name:24} {of_5:9.1f}/sec {of_minute:9.3f}/sec {of_hour:12.4f}/sec   total: {row.total}")
    return "\n".join([*lines, f"{never} events never hit"])


@command("coverage/read-counter", "counter", 1)
async def read_counter(switch: Switch, words: Sequence[str]) -> str:
    """How often one event happened."""
    total = await switch.coverage.total(words[0])
    if total is None:
        raise CommandError(f"No such counter '{words[0]}'")
    return str(total)


def _loggers() -> list[str]:
    return sorted(name for name in logging.Logger.manager.loggerDict if name.startswith(OURS))


@command("vlog/list")
async def vlog_list(_switch: Switch, _words: Sequence[str]) -> str:
    """What is logged of each module."""
    names = {number: name.upper() for name, number in LEVELS.items()}
    lines = [f"{'':32} log", f"{'':32} ----"]
    for name in _loggers():
        level = logging.getLogger(name).getEffectiveLevel()
        lines.append(f"{name.removeprefix(OURS):32} {names.get(level, logging.getLevelName(level))}")
    return "\n".join(lines)


@command("vlog/set", "{spec | PATTERN:destination:pattern}", 1, 64)
async def vlog_set(_switch: Switch, words: Sequence[str]) -> str:
    """Set levels: [module][:destination][:level] in any order, as ovs-appctl(8) has it."""
    changes = [_parse_spec(spec) for word in words for spec in word.replace(",", " ").split()]
    for modules, level in changes:
        for name in modules:
            logging.getLogger(name).setLevel(level)
    return ""


@command("vlog/reopen")
async def vlog_reopen(switch: Switch, _words: Sequence[str]) -> str:
    """Open the log file anew, in every process, as logrotate(8) asks for."""
    if not reopen_log():
        raise CommandError("there is no log file: start penstock-vswitchd with --log-file")
    supervisor = SupervisorStatus.read(switch.control.rundir)
    if supervisor is not None:
        os.kill(supervisor.pid, SIGNAL)
    return ""


def _parse_spec(spec: str) -> tuple[list[str], int]:
    """Loggers and the level for them. Raises CommandError."""
    level, modules = logging.DEBUG, [OURS.rstrip("."), *_loggers()]
    for part in spec.split(":"):
        word = part.lower()
        if word in LEVELS:
            level = LEVELS[word]
        elif word not in DESTINATIONS:
            modules = [name for name in _loggers() if word in (name.removeprefix(OURS), name.rpartition(".")[2])]
            if not modules:
                raise CommandError(f"'{part}' is no level ({', '.join(LEVELS)}), destination or module (vlog/list)")
    return modules, level
