"""The structs that workers, ports and the engine share, each declared once.

Who writes: PORT, BRIDGE, MEMBERS, PORT_CONFIG, RXQ_LIST and the constant part of RXQ, TXQ, WORKER belong to the
engine's main thread; it replaces what workers follow by storing a pointer and frees the old after every worker passed
a quiet point. PACKET, OUTPUT, COUNTERS and the running part of WORKER and RXQ belong to one worker.

A packet's bytes are ``head_len`` bytes at ``head``, then ``tail_len`` of its tail. Every header lies in ``head``: a
receive function puts at least min(length, 256) bytes there, and at most HEADER_MAX when there is a tail. ``headroom``
bytes (at least HEADROOM) before ``head`` may be overwritten. The tail is one piece at ``tail``, or, when ``frags`` is
not 0, the ``frag_count`` pieces that the FRAGs at ``frags`` list (``fragments`` has the kernels for those).
"""

from __future__ import annotations

import numpy as np

from penstock.datapath.drops import REASONS
from penstock.machine import offset, view

BURST = 32
MAX_PORTS = 4096
MAX_BRIDGES = 256
MAX_WORKERS = 16
DEPTH_MAX = 16  # patch ports and tunnels that a packet may cross
HEADROOM = 128
HEADER_MAX = 256
FRAME_MAX = 65536 + 128  # a 64 KB GSO frame with its headers
SCRATCH_STRIDE = 66 * 1024 + 192  # per frame; not a multiple of 4 KB, so that frame starts spread over the cache's sets
ETHERNET_HEADER = 14

FLAG_CSUM_PARTIAL, FLAG_CSUM_VALID, FLAG_ECN = 1, 2, 4
GSO_NONE, GSO_TCPV4, GSO_UDP, GSO_TCPV6, GSO_UDP_L4 = 0, 1, 3, 4, 5
OFFLOAD_CSUM, OFFLOAD_TSO4, OFFLOAD_TSO6, OFFLOAD_UFO, OFFLOAD_USO = 1, 2, 4, 8, 16
OFFLOAD_CRC = 32  # SCTP's CRC-32C: virtio-net cannot ask for it, so no port has this bit and software always does it
OFFLOAD_NAMES = {
    OFFLOAD_CSUM: "csum",
    OFFLOAD_TSO4: "tso4",
    OFFLOAD_TSO6: "tso6",
    OFFLOAD_UFO: "ufo",
    OFFLOAD_USO: "uso",
}

PACKET = np.dtype(
    [
        ("head", "i8"),
        ("tail", "i8"),
        ("head_len", "i4"),
        ("tail_len", "i4"),
        ("headroom", "i4"),
        ("in_port", "i4"),
        # Eight bytes of offloads; csum_start, from the frame's start, and csum_offset are valid with FLAG_CSUM_PARTIAL.
        ("csum_start", "u2"),
        ("csum_offset", "u2"),
        ("gso_size", "u2"),
        ("gso_type", "u1"),
        ("flags", "u1"),
        ("l3", "u2"),  # offsets from the frame's start, set by parse; 0: no such layer, or (l4) not looked for
        ("l4", "u2"),
        ("depth", "u1"),  # patch ports and tunnels crossed
        ("tagged", "u1"),  # 1 when the frame has a VLAN tag now
        ("vid", "u2"),  # VLAN that the frame belongs to inside the bridge
        ("key", "i8"),  # address of its flow key
        ("source", "i8"),  # FDB buckets of its addresses
        ("destination", "i8"),
        ("frags", "i8"),  # address of FRAGs that make up the tail; 0: it is one piece at ``tail``
        ("frag_count", "i8"),
        ("remote", "i8"),  # the tunnel's far end that it came from or goes to, as an FDB entry has it; 0: none
        ("whole", "i8"),  # 1 when its key has every layer that it has; 0: layer 2
        ("pad", "i8", 3),
    ],
    align=True,
)

FRAG = np.dtype([("address", "i8"), ("length", "i8")], align=True)
FRAG_BYTES = FRAG.itemsize
FRAGS_MAX = 128  # pieces of one packet's tail; a FRAG is also a struct iovec

RXQ = np.dtype(
    [
        ("rx", "i8"),  # rx_burst(rxq, packets, max) -> n; negative: out of service, not to be asked again
        ("release", "i8"),  # release(rxq): the burst was transmitted; 0 when there is nothing to give back
        ("pending", "i8"),  # for queues without descriptor: pending(rxq) -> 1 when frames wait
        ("ctx", "i8"),  # the kind's private struct
        ("scratch", "i8"),  # BURST buffers of SCRATCH_STRIDE bytes, the worker's: frames may be read there
        ("fd", "i4"),  # polled by epoll; -1: asked on every turn
        ("port", "i4"),
        ("error", "i4"),  # errno that the receive function met: the queue is not asked again
        ("active", "i4"),  # the worker's: frames waited at the last look
        ("counters", "i8"),  # COUNTERS of this port and the worker that holds the queue, for what rx itself must drop
        ("arm", "i8"),  # for queues polled until quiet: arm(rxq) asks for a wake-up by ``fd``, 1 when frames wait
        ("after", "i8"),  # AFTERWARDS of the worker that holds the queue
        ("quiet_since", "i8"),  # the worker's: cycle counter when such a queue was first found empty; 0: it was not
    ],
    align=True,
)

TXQ = np.dtype(
    [
        ("tx", "i8"),  # tx_burst(txq, list of PACKET addresses, n): copies out, counts what it sent and dropped
        ("ctx", "i8"),
        ("lock", "i8"),  # address of a spin lock word shared by the port's workers; 0: this worker's own queue
        ("counters", "i8"),  # COUNTERS of this port and worker
        ("fd", "i4"),
        ("queue", "i4"),
        ("offloads", "i4"),
        ("port", "i4"),
        ("scratch", "i8"),  # TX_SCRATCH bytes, the worker's, for vectors of buffers
        ("after", "i8"),  # AFTERWARDS of this worker
    ],
    align=True,
)
TX_SCRATCH = 8192

DROPS_MAX = 56
assert len(REASONS) <= DROPS_MAX
COUNTERS = np.dtype(
    [
        ("rx_packets", "i8"),
        ("rx_bytes", "i8"),
        ("tx_packets", "i8"),
        ("tx_bytes", "i8"),
        ("pad", "i8", 4),
        ("drops", "i8", DROPS_MAX),
    ],
    align=True,
)
COUNTER_DROPS = offset(COUNTERS, "drops")

VLAN_ACCESS, VLAN_TRUNK, VLAN_NATIVE_TAGGED, VLAN_NATIVE_UNTAGGED, VLAN_DOT1Q_TUNNEL, VLAN_OF_TUNNEL = range(6)
VLAN_MODES = ("access", "trunk", "native-tagged", "native-untagged", "dot1q-tunnel")

PORT_CONFIG = np.dtype(
    [
        ("mode", "i8"),
        ("tag", "i8"),
        ("bare", "i8"),  # how frames leave that leave without their VLAN's tag: a form (datapath/tags.py)
        ("service_type", "i8"),  # Ethernet type, raw, of the tag that a dot1q-tunnel port puts before a customer's
        ("selective", "i8"),  # 1: only the VLANs of ``customers`` are taken from the customer and given to it
        ("pad", "i8", 3),
        ("members", "u1", 512),  # bit per VLAN id
        ("customers", "u1", 512),
    ],
    align=True,
)
CONFIG_MEMBERS, CONFIG_CUSTOMERS = offset(PORT_CONFIG, "members"), offset(PORT_CONFIG, "customers")

PORT_FREE, PORT_UP, PORT_DOWN = range(3)
# Where what leaves by a port goes: to its device, into the peer's bridge, into a tunnel, or to the host's own device,
# where what a tunnel brought is unpacked first. It never changes.
EGRESS_DEVICE, EGRESS_PATCH, EGRESS_TUNNEL, EGRESS_LOCAL = range(4)
PORT = np.dtype(
    [
        ("state", "i4"),
        ("bridge", "i4"),
        ("config", "i8"),
        ("txqs", "i8"),  # MAX_WORKERS consecutive TXQ
        ("counters", "i8"),  # MAX_WORKERS consecutive COUNTERS
        ("mtu", "i4"),
        ("peer", "i4"),  # patch: port number of the peer; -1 none
        ("capture", "i4"),  # bytes of each frame to capture; 0 off
        ("ofport", "i4"),  # OpenFlow port number in its bridge
        ("key_word", "i8"),  # in_port and in_phy_port as they stand in a flow key
        ("of_config", "i4"),  # OFPPC_ bits: what OpenFlow forbids the port; PROTECTED_PORT
        ("egress", "i4"),
        ("tunnel", "i8"),  # TUNNEL of a tunnel port
        ("policer", "i8"),  # POLICER of what it may receive; 0: no limit
        ("pad", "i8", 6),
        ("name", "S64"),
    ],
    align=True,
)

BRIDGE = np.dtype(
    [
        ("state", "i8"),
        ("fdb", "i8"),
        ("members", "i8"),
        ("ageing", "i8"),
        ("pipeline", "i8"),
        ("tunnels", "i8"),  # tunnel ports that it has: the tunnel's part of a packet's key is of use
        ("forward_bpdu", "i8"),
        ("flood_vlans", "i8"),  # bits of 4096 VLANs in which nothing is learned; 0: there are none
        ("name", "S64"),
    ],
    align=True,
)
PROTECTED_PORT = 1 << 16  # beyond the bits that OpenFlow has
MEMBERS = np.dtype([("count", "i8"), ("ports", "i4", MAX_PORTS)], align=True)
MEMBER_PORTS = offset(MEMBERS, "ports")

OUTPUT = np.dtype(
    [
        ("count", "i8"),
        ("first", "i8"),  # tunnels: where the rest begins of a burst that was too much for one go,
        ("copies", "i8"),  # how many copies the first of that has had,
        ("captured", "i8"),  # and where what was not captured yet begins
        ("pad", "i8", 4),
        ("packets", "i8", BURST),
    ],
    align=True,
)
OUTPUT_PACKETS = offset(OUTPUT, "packets")

RXQ_LIST_MAX = MAX_PORTS
RXQ_LIST = np.dtype(
    [("polled", "i8"), ("count", "i8"), ("queues", "i8", RXQ_LIST_MAX)], align=True
)  # polled ones first
LIST_QUEUES = offset(RXQ_LIST, "queues")

RUNNING, SLEEPING = range(2)  # sleeping: waits, or looks a last time before; to be kicked
POLL_ADAPTIVE, POLL_BUSY = 0, 1
EVENTS_MAX = 64
EVENT_BYTES_MAX = 16  # of a struct epoll_event, on any machine
CLONES_MAX = 512
CUT_MAX = 1024  # segments and copies for tunnels that wait to be sent
ASIDE_MAX = BURST + CLONES_MAX + CUT_MAX  # every packet that there may be in a turn
TURN_CLASSES = 64
STAGES = ("rx", "parse", "forward", "tx")

WORKER = np.dtype(
    [
        # constant while it runs
        ("index", "i8"),
        ("parse", "i8"),  # addresses of the compiled stages: each is compiled once and called once per burst
        ("normal", "i8"),
        ("pipeline", "i8"),
        ("run_tables", "i8"),
        ("edit", "i8"),
        ("transmit", "i8"),
        ("cross", "i8"),
        ("flush", "i8"),
        ("ports", "i8"),  # MAX_PORTS consecutive PORT
        ("bridges", "i8"),
        ("outputs", "i8"),  # MAX_PORTS consecutive OUTPUT
        ("dirty", "i8"),  # port numbers with output, i4
        ("packets", "i8"),  # BURST consecutive PACKET
        ("keys", "i8"),  # BURST consecutive keys
        ("cache", "i8"),  # of the pool of clones
        ("clones", "i8"),  # CLONES_MAX addresses
        ("burst", "i8"),  # BURST addresses: of ``packets``, one after the other
        ("staged", "i8"),  # BURST addresses: what goes to one tx_burst
        ("patched", "i8"),  # BURST addresses: what enters another bridge
        ("policed", "i8"),  # BURST addresses: what a port's POLICER let in
        ("arrived", "i8"),  # BURST addresses: what left by one port for elsewhere
        ("endpoints", "i8"),  # BURST addresses: ENDPOINTs that those go to
        ("aside", "i8"),  # ASIDE_MAX pairs of port number and address: what found no place in an output burst
        ("blocked", "i8"),  # port numbers whose output has to wait for buffers, i4
        ("cut", "i8"),  # CUT_MAX addresses of clones: segments and copies for tunnels
        ("cut_joined", "i8"),  # FRAME_MAX bytes for the one tail that such segments share
        ("arrivals", "i8"),  # ARRIVALS: what tunnels end here; 0: none ever did
        ("asks", "i8"),  # record ring to the main thread: packets whose tunnel's far end is not known
        ("asks_fd", "i8"),  # eventfd that wakes it
        ("answers", "i8"),  # record ring with those packets, when it is; 0 but for worker 0
        ("segments", "i8"),  # BURST addresses of clones that hold the segments of one packet
        ("events", "i8"),  # EVENTS_MAX epoll events
        ("packet_in", "i8"),  # record rings
        ("packet_in_fd", "i8"),  # eventfd that wakes who reads packet_in
        ("packet_out", "i8"),  # 0 but for worker 0
        ("captures", "i8"),
        ("trace", "i8"),  # TRACE when this context only explains; else 0
        ("epoll", "i8"),
        ("cycles_hz", "i8"),
        ("poll", "i8"),
        ("spin_cycles", "i8"),
        ("punt", "i8"),  # 1: frames for reserved group addresses go to packet_in
        ("active", "i8"),  # addresses of queues with frames waiting
        ("segmentation", "i8"),  # SEGMENTATION of the packet being split
        ("rx_scratch", "i8"),  # see RXQ.scratch, TXQ.scratch
        ("tx_scratch", "i8"),
        ("kick", "i8"),  # eventfd
        ("cpu", "i8"),  # the CPU it is pinned to; -1: any
        ("after", "i8"),  # AFTERWARDS: calls at the end of the turn
        ("joined", "i8"),  # FRAME_MAX bytes where a tail in pieces is made one
        ("exec", "i8"),  # EXEC: what running a pipeline takes
        # written by the main thread
        ("queues", "i8"),  # RXQ_LIST
        ("stop", "i8"),
        ("pad1", "i8", 6),
        # written by the worker, read by the main thread
        ("turns", "i8"),
        ("state", "i8"),
        ("now", "i8"),  # coarse seconds of CLOCK_MONOTONIC
        ("started", "i8"),  # cycle counter at start
        ("pad2", "i8", 4),
        # the worker's alone, and its statistics
        ("dirty_count", "i8"),
        ("clone_count", "i8"),
        ("aside_count", "i8"),
        ("blocked_count", "i8"),
        ("cut_count", "i8"),
        ("cut_joined_count", "i8"),  # tails in ``cut_joined``
        ("ask_second", "i8"),  # of ``now``, in which
        ("ask_count", "i8"),  # so much was put in ``asks``,
        ("told_count", "i8"),  # and so many of these were too big
        ("links", "i8"),  # 1: the burst parsed last has keys of layer 2
        ("seen", "i8"),  # what ARRIVALS had for the packet unpacked last, which had
        ("seen_key", "i8"),  # this service and tunnel key, and these words of addresses
        ("seen_first", "i8"),
        ("seen_second", "i8"),
        ("seen_third", "i8"),
        ("seen_fourth", "i8"),
        ("batch_count", "i8"),  # packets in ``patched`` on their way into the underlay,
        ("batch_port", "i8"),  # and the port by which they enter it
        ("active_count", "i8"),
        ("clock_cycles", "i8"),
        ("unix_offset", "i8"),  # nanoseconds from CLOCK_MONOTONIC to the Unix epoch, for captures
        ("busy_turns", "i8"),
        ("busy_cycles", "i8"),
        ("last_cycles", "i8"),
        ("packets_total", "i8"),
        ("bursts", "i8"),
        ("sleeps", "i8"),
        ("staged_packets", "i8"),
        ("stage_cycles", "i8", len(STAGES)),
        ("learned", "i8"),
        ("moved", "i8"),
        ("crossed", "i8"),  # a packet of this burst crossed a patch
        ("woken", "i8"),  # how often the reader of packet_in had asked when it was woken last
        ("burst_sizes", "i8", BURST + 1),
        ("turn_cycles", "i8", TURN_CLASSES),  # busy turns of at least 2**index cycles and less than twice that
        ("pad3", "i8", 4),
    ],
    align=True,
)
WORKER_QUEUES, WORKER_STOP = offset(WORKER, "queues"), offset(WORKER, "stop")
WORKER_TURNS, WORKER_STATE = offset(WORKER, "turns"), offset(WORKER, "state")
WORKER_BURST_SIZES, WORKER_STAGES = offset(WORKER, "burst_sizes"), offset(WORKER, "stage_cycles")
WORKER_TURN_CYCLES, WORKER_ARRIVALS = offset(WORKER, "turn_cycles"), offset(WORKER, "arrivals")

RECEIVED, TRANSMITTED = range(2)  # what a capture saw

# A frame handed to or taken from the control process; ``length`` bytes follow in the record.
FRAME_RECORD = np.dtype(
    [
        ("time_ns", "i8"),  # Unix epoch
        ("port", "i4"),  # packet-in, capture: where it was seen; packet-out: where it is said to come from, -1 nowhere
        ("kind", "i4"),  # capture: RECEIVED or TRANSMITTED; packet-out: one of the OUT_ values
        ("wire_length", "i4"),
        ("length", "i4"),
        ("target", "i4"),  # packet-out: port number for OUT_PORT
        ("pad", "i4"),
        ("pipeline", "i8"),  # packet-out: PIPELINE and PROGRAM for OUT_PROGRAM
        ("program", "i8"),
        ("headroom", "u1", HEADROOM),
    ],
    align=True,
)
OUT_PORT, OUT_NORMAL, OUT_PROGRAM = range(3)

SWITCH = np.dtype(
    [
        ("ports", "i8"),
        ("bridges", "i8"),
        ("workers", "i8"),  # worker_count consecutive WORKER
        ("worker_count", "i8"),
        ("packet_out", "i8"),
        ("cycles_hz", "i8"),
        ("started_ns", "i8"),  # Unix epoch
        ("pid", "i8"),
    ],
    align=True,
)

packet_at = view(PACKET)
rxq_at = view(RXQ)
txq_at = view(TXQ)
counters_at = view(COUNTERS)
config_at = view(PORT_CONFIG)
port_at = view(PORT)
bridge_at = view(BRIDGE)
members_at = view(MEMBERS)
output_at = view(OUTPUT)
list_at = view(RXQ_LIST)
worker_at = view(WORKER)
frame_record_at = view(FRAME_RECORD)

PACKET_OFFLOADS = offset(PACKET, "csum_start")
PACKET_BYTES, TXQ_BYTES, COUNTERS_BYTES = PACKET.itemsize, TXQ.itemsize, COUNTERS.itemsize
PORT_BYTES, BRIDGE_BYTES, OUTPUT_BYTES, WORKER_BYTES = PORT.itemsize, BRIDGE.itemsize, OUTPUT.itemsize, WORKER.itemsize
