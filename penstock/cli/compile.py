"""`penstock compile`: fill the compile cache, so that the next start is a warm one."""

from __future__ import annotations

import time

import click


@click.command(short_help="Fill the compile cache.")
def command() -> None:
    """Compile all kernels ahead of the first start, with progress (done at once when they are compiled already)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    import penstock.traffic  # noqa: F401 (its entries are compiled with the engine's)
    from penstock.engine.warm import warm

    began = time.monotonic()
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns) as progress:
        task = progress.add_task("", total=None)
        compiled = warm(lambda done, total, name: progress.update(task, completed=done, total=total, description=name))
    click.echo(f"{compiled} functions compiled, the rest was in the cache; {time.monotonic() - began:.1f} s")
