"""Options and arguments that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from penstock.switch.rundir import default_rundir

F = TypeVar("F", bound=Callable[..., Any])


def rundir_option(function: F) -> F:
    """--rundir, handed to the verb as a Path."""
    return click.option(
        "--rundir",
        type=click.Path(path_type=Path),
        default=default_rundir,
        show_default="$PENSTOCK_RUNDIR, or /run/penstock for root, or $XDG_RUNTIME_DIR/penstock",
        help="The directory of the switch's sockets and state.",
    )(function)


def json_option(function: F) -> F:
    """--json, handed to the verb as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
