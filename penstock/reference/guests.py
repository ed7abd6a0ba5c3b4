"""The guests of a measurement, in a process of their own on one CPU: VMs that send, and the network that takes it in.

``python -m penstock.reference.guests CPU SCALE NIC VM ...``, with SCALE as three numbers joined by commas and a
vhost-user socket for the NIC and for each VM. Says "ready"; then each line, "VMS FLOWS SIZE SECONDS", is a run,
answered by a line of JSON: frames and bytes that the network received, seconds, and frames that VMs could not send.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from penstock.reference.scale import FLOWS_MAX, MTU, Scale
from penstock.traffic.generator import Generator, Timed
from penstock.traffic.session import Session
from penstock.traffic.sink import Sink

MEGABYTES = 512
RING = 256


def run(session: Session, scale: Scale, vms: list[Any], nic: Any, line: str) -> dict[str, Any]:
    """One run."""
    count, flows, size = map(int, line.split()[:3])
    seconds = float(line.split()[3])
    assert flows <= FLOWS_MAX
    sink = Sink(nic, session.hz, flows=64)
    sink.tasks *= count  # a burst from the network for each burst of a VM, or else its ring is always full
    generators = []
    for vm, endpoint in enumerate(vms[:count]):
        frames = [Timed(frame) for frame in scale.frames(vm, flows, size)]
        generators.append(Generator.of_frames(endpoint, frames, session.hz))
        generators[-1].limit(None, seconds)
        generators[-1].pace(None)
    result = session.run(generators, sink)
    assert result.received is not None
    found = {
        "frames": result.received.received,
        "bytes": result.received.octets,
        "seconds": max(each.seconds for each in generators),
        "sent": sum(each.sent for each in generators),
    }
    for generator in generators:
        generator.close()
    sink.close()
    return found


def main() -> int:
    cpu, numbers, nic_path, *paths = sys.argv[1:]
    scale = Scale(*map(int, numbers.split(",")))
    with Session(MEGABYTES, [int(cpu)], busy=True) as session:
        nic = session.open("nic", "virtio-user", {"path": nic_path, "ring": RING}, MTU)
        vms = [
            session.open(f"vm{number + 1}", "virtio-user", {"path": path, "ring": RING})
            for number, path in enumerate(paths)
        ]
        print("ready", flush=True)
        for line in sys.stdin:
            print(json.dumps(run(session, scale, vms, nic, line)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
