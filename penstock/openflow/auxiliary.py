"""Auxiliary connections (OpenFlow 1.3.5, section 6.3.6): more connections to a controller that has one, for packets.

They are made when the main connection has agreed on 1.3 and end with it. Packet-ins go by them, those of one flow by
one, so that a flood of packets does not hold up the answers on the main connection. What else a controller asks on one
is answered there, for the main connection's state: there is one role, one configuration.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from penstock.openflow.connections import Connection, Serve
from penstock.openflow.session import Session
from penstock.openflow.wire import OF13

Connect = Callable[[Serve], Connection]


class Auxiliaries:
    """So many auxiliary connections of a session, from when it has greeted until ``close``."""

    def __init__(self, main: Session, count: int, connect: Connect) -> None:
        self._main = main
        self._connections = [connect(partial(self._serve, number)) for number in range(1, count + 1)]

    async def close(self) -> None:
        """End them all."""
        for connection in self._connections:
            await connection.close()

    async def _serve(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _name: str) -> None:
        main = self._main
        session = Session(
            main.host, reader, writer, (OF13,), f"{main.name}/{number}", probe=main.probe, main=main,
            auxiliary_id=number,
        )  # fmt: skip
        main.auxiliaries.append(session)
        try:
            await session.run()
        finally:
            main.auxiliaries.remove(session)
