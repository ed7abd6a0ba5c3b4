"""`penstock run`: the supervisor in the foreground."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from penstock.cli.options import rundir_option


@click.command(short_help="Run a switch until it is stopped.")
@click.option("--config", type=click.Path(path_type=Path), required=True, help="The TOML configuration file.")
@click.option("--workers", type=click.IntRange(1, 64), help="How many workers; in place of the file's engine.workers.")
@click.option("--no-spare", is_flag=True, help="Without a spare engine; in place of the file's engine.spare.")
@rundir_option
def command(config: Path, workers: int | None, no_spare: bool, rundir: Path) -> None:
    """Run a switch until stopped (Ctrl-C, SIGTERM or 'penstock stop')."""
    from penstock.config.engine_table import load_engine_settings
    from penstock.switch.supervisor import Supervisor, control_command, engine_command

    settings = load_engine_settings(config, workers)
    rundir, config = rundir.absolute(), config.absolute()
    engine, control = engine_command(rundir, settings), control_command(rundir, config)
    supervisor = Supervisor(rundir, config, engine, control, has_spare=settings.spare and not no_spare)
    sys.exit(supervisor.run())
