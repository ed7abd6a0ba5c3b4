"""The part of a pipeline that is the engine's: which of its ports each OpenFlow port number is.

Written by the engine's main thread when ports come and go, so that flows never send to a number that another port has
got meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from penstock.datapath.pipeline.layout import PIPELINE, PORT_MAP
from penstock.machine import records


def map_ports(pipeline: int, bridge: int, numbers: Mapping[int, int]) -> None:
    """Publish a bridge's number and, by OpenFlow number, those of its ports; one above PORT_MAP is LOCAL."""
    row = records(PIPELINE, pipeline)[0]
    row["bridge"] = bridge
    ports = records(np.dtype(np.uint16), int(row["ports"]), PORT_MAP)
    wanted = np.zeros(PORT_MAP, dtype=np.uint16)
    local = 0
    for ofport, number in numbers.items():
        if ofport < PORT_MAP:
            wanted[ofport] = number
        else:
            local = number
    for changed in np.flatnonzero(ports != wanted):
        ports[changed] = wanted[changed]
    row["local"] = local
