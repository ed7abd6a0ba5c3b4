"""`penstock stop`: end a running switch and wait until it has ended."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.cli.options import rundir_option
from penstock.switch.client import ControlError
from penstock.switch.ending import end_process
from penstock.switch.rundir import LOCK, lock_holder


@click.command(short_help="Stop the switch.")
@click.option("--timeout", type=float, default=15.0, show_default=True, help="Seconds to wait for the end.")
@rundir_option
def command(timeout: float, rundir: Path) -> None:
    """Stop the switch: its ports go away, and with them the TAP devices it made."""
    pid = lock_holder(rundir / LOCK)
    if pid is None:
        raise ControlError(f"penstock does not run on {rundir}: nothing to stop (name another with --rundir)")
    try:
        end_process(pid, timeout)
    except PermissionError as error:
        raise ControlError(f"no right to stop process {pid}, which runs the switch on {rundir}") from error
    except TimeoutError as error:
        raise ControlError(f"the switch on {rundir} (process {pid}) has not ended within {timeout:g} s") from error
