"""Engines of their own: several workers, busy polling, stopping, and a client in another process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.engine.engine import Engine, EngineFault
from penstock.engine.server import Server
from penstock.engine.warm import warm
from penstock.ports.spec import BridgeSpec
from tests.engine.support import (
    add_bridge,
    add_dummy,
    counters,
    drops,
    dummy,
    fdb,
    frame,
    mac,
    send,
    sent,
    tagged,
    wait_until,
)

ARENA = 256 << 20


@contextmanager
def running(workers: int = 1, poll: str = "adaptive") -> Iterator[Engine]:
    warm(lambda done, total, name: None)
    made = Engine(workers=workers, poll=poll, arena_bytes=ARENA)
    try:
        yield made
    finally:
        made.stop()


def test_busy_polling_never_sleeps() -> None:
    with running(poll="busy") as engine:
        add_bridge(engine, "a", "b")
        row = engine.workers.all[0].row
        turns = int(row["turns"])
        time.sleep(0.1)
        assert int(row["turns"]) > turns + 1000
        assert (int(row["sleeps"]), int(row["state"])) == (0, 0)


def test_quiesce_waits_for_a_turn_of_every_worker() -> None:
    with running(workers=3) as engine:
        for _ in range(200):
            before = [worker.turns for worker in engine.workers.all]
            engine.workers.quiesce()
            assert all(worker.turns > turns for worker, turns in zip(engine.workers.all, before, strict=True))


def test_queues_are_dealt_evenly_and_workers_share_a_transmit_queue() -> None:
    with running(workers=3) as engine:
        add_bridge(engine, *"abcdef", "out")
        assert [len(worker.queues) for worker in engine.workers.all] == [3, 2, 2]
        for index, name in enumerate("abcdef"):
            send(engine, name, [frame(mac(99), mac(index))])
        send(engine, "out", [frame(mac(0), mac(99))])
        for name in (*"abcdef", "out"):
            sent(engine, name)
        burst = 400
        before = counters(engine, "out")["tx_packets"]
        for index, name in enumerate("abcdef"):
            dummy(engine, name).inject(
                [frame(mac(99), mac(index), bytes([index]) + n.to_bytes(45, "big")) for n in range(burst)]
            )
        wait_until(lambda: counters(engine, "out")["tx_packets"] == before + 6 * burst, "all frames to leave")
        frames = sent(engine, "out")
        for index in range(6):
            numbers = [int.from_bytes(each[15:], "big") for each in frames if each[14] == index]
            assert numbers == list(range(burst))
        assert all(drops(engine, name) == {} for name in engine.ports)


def test_stop_with_traffic() -> None:
    for _ in range(3):
        with running(workers=2) as engine:
            for port in add_bridge(engine, "a", "b"):
                port.replay([frame(mac(2), mac(1))])
            time.sleep(0.01)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("worker-")]


def test_the_client_sees_what_the_engine_counts(tmp_path: Path) -> None:
    """In another process, since one process maps one arena."""
    with running(workers=2) as engine:
        server = Server(engine, tmp_path)
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            add_bridge(engine, "a", "b", "c")
            send(engine, "a", [frame(mac(2), mac(1)), b"\x02" * 13, tagged(frame(mac(9), mac(1)), 4)])
            send(engine, "b", [frame(mac(1), mac(2))] * 3)
            counted = {name: counters(engine, name) for name in engine.ports}
            dropped = {name: drops(engine, name) for name in engine.ports}
            known = fdb(engine, "br0")
            seen = ask(tmp_path)
            assert seen["drops"] == {name: reasons for name, reasons in dropped.items() if reasons}
            for name in engine.ports:
                row = seen["counters"][name]
                assert {key: row[key] for key in counted[name]} == counted[name]
                assert row["rx_dropped"] + row["tx_dropped"] == sum(dropped[name].values())
            assert {(e[1], bytes.fromhex(e[0].replace(":", ""))): e[2] for e in seen["fdb"]} == known
            assert sum(worker["packets"] for worker in seen["workers"]) == 6
            for worker in seen["workers"]:
                assert sum(worker["turn_cycles"]) == worker["busy_turns"]
            assert seen["flushed"] == [1, 2]
            assert sorted(name for name, _, _ in seen["captured"]) == ["a", "b", "c"]
            assert fdb(engine, "br0") == {(0, mac(5)): "a"}
        finally:
            server.stop()
            thread.join()


def test_a_full_arena_refuses_ports_and_goes_on() -> None:
    with running() as engine:
        add_bridge(engine, "a", "b")
        with pytest.raises(EngineFault, match=r"port 'more[0-9]+': arena is full"):
            deque((add_dummy(engine, f"more{number}") for number in range(100)), maxlen=0)
        send(engine, "a", [frame(mac(2), mac(1))])
        assert sent(engine, "b") == [frame(mac(2), mac(1))]
        with pytest.raises(EngineFault, match="bridge 'big' cannot be added: arena is full"):
            engine.add_bridge(BridgeSpec("big", mac_table_size=4_194_304))


CLIENT = """
import json, sys
from pathlib import Path
from penstock.engine.client import EngineClient
client = EngineClient.connect(Path(sys.argv[1]))
seen = {
    "drops": client.drops(),
    "counters": client.port_counters(),
    "fdb": [[e.mac, e.vlan, e.port, e.age, e.static] for e in client.fdb("br0")],
    "workers": client.worker_stats(),
}
print(json.dumps(seen))
flushed = [client.flush_fdb("br0", "b"), client.flush_fdb("br0")]
for name in "abc":
    client.start_capture(name)
client.packet_out(bytes.fromhex("ffffffffffff020000000005") + bytes(50), "a", "NORMAL")
client.packet_out(bytes.fromhex("020000000009020000000006") + bytes(50), None, "a")
captured = []
while len(captured) < 3:
    captured += [[c.port, c.direction, c.wire_length] for c in client.read_captured()]
assert client.capture_lost() == 0 and client.age_fdb() == 0
print(json.dumps({"flushed": flushed, "captured": captured}))
"""


def ask(rundir: Path) -> dict[str, Any]:
    """What CLIENT saw."""
    command = [sys.executable, "-c", CLIENT, str(rundir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    return {**json.loads(first), **json.loads(second)}
