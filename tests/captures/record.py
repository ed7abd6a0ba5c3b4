"""Record what ovs-ofctl and Open vSwitch's switch say to each other: ``python -m tests.captures.record``, as root.

Each command of COMMANDS is a TCP connection on the loopback device of a network namespace; tcpdump writes them to
openflow10.pcap and openflow13.pcap beside this file.
"""

from __future__ import annotations

import signal
import tempfile
import time
from pathlib import Path

from penstock.demo.hosts import Host
from penstock.peers.ovs import OpenVSwitch

HERE = Path(__file__).parent
TARGET = "tcp:127.0.0.1:6653"
PORTS = ("p1", "p2", "p3")

MATCHES = (
    "in_port=1", "dl_src=02:00:00:00:00:01", "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00", "dl_type=0x88b5",
    "dl_vlan=7", "dl_vlan=7,dl_vlan_pcp=3", "vlan_tci=0", "ip", "ip,nw_src=10.0.0.0/8", "ip,nw_dst=10.1.2.3",
    "ip,nw_tos=32", "ip,nw_ecn=2", "ip,nw_ttl=64", "icmp,icmp_type=8,icmp_code=0", "tcp,tp_src=80",
    "tcp,tp_dst=0x1000/0xf000", "tcp,tcp_flags=+syn-ack", "udp,tp_src=53,tp_dst=1024", "sctp,tp_dst=99",
    "ip,nw_frag=yes", "ip,nw_frag=not_later", "arp", "arp,arp_op=1", "arp,arp_spa=10.0.0.1,arp_tpa=10.0.0.2",
    "arp,arp_sha=02:00:00:00:00:01", "ipv6,ipv6_src=2001:db8::/32", "ipv6,ipv6_dst=2001:db8::1",
    "ipv6,ipv6_label=0x12345", "tcp6,tp_dst=22", "icmp6,icmp_type=135,nd_target=fe80::1",
    "icmp6,icmp_type=135,nd_sll=02:00:00:00:00:01", "icmp6,icmp_type=136,nd_tll=02:00:00:00:00:02",
    "mpls,mpls_label=5,mpls_tc=1,mpls_bos=1", "reg0=1,reg1=0x10/0xf0", "metadata=0x5/0xff", "tun_id=0x64",
    "tun_src=10.0.0.1,tun_dst=10.0.0.2", "pkt_mark=3", "conj_id=7", "xreg0=0x100000002",
)  # fmt: skip
ACTIONS = (
    "drop", "output:2", "2,3", "in_port", "normal", "flood", "all", "controller", "controller:64",
    "controller(reason=no_match,max_len=100,id=5)", "local", "mod_vlan_vid:7,2", "mod_vlan_pcp:5,2",
    "mod_dl_src:02:00:00:00:00:09,mod_dl_dst:02:00:00:00:00:0a,2", "set_tunnel:5,2", "set_tunnel64:0x100000000,2",
    "resubmit:3", "resubmit(,5)", "resubmit(2,6)", "move:NXM_OF_IN_PORT[]->NXM_NX_REG0[0..15],2",
    "load:5->NXM_NX_REG1[0..7],2", "load:0x10->NXM_OF_ETH_DST[],2", "output:NXM_NX_REG0[0..15]", "push:NXM_NX_REG0[],2",
    "pop:NXM_NX_REG2[],2", "note:01.02.03.04.05.06,2", "exit",
    "learn(table=2,idle_timeout=10,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],load:NXM_OF_IN_PORT[]->NXM_NX_REG0[0..15],output:NXM_OF_IN_PORT[]),2",
    "multipath(eth_src,50,modulo_n,2,0,NXM_NX_REG0[0..15]),2", "bundle(eth_src,0,hrw,ofport,members:2,3)",
    "bundle_load(symmetric_l4,1,active_backup,ofport,NXM_NX_REG0[0..15],members:2,3),2", "set_queue:3,2,pop_queue",
    "enqueue:2:4", "clone(mod_vlan_vid:9,2),3", "conjunction(7,1/2)",
)  # fmt: skip
IP_ACTIONS = (
    "mod_nw_src:10.0.0.9,mod_nw_dst:10.0.0.10,2", "mod_nw_tos:32,2", "mod_tp_src:99,2", "mod_tp_dst:98,2", "dec_ttl,2",
    "dec_ttl(1,2),2", "fin_timeout(idle_timeout=5),2",
)  # fmt: skip
EARLIER = ("strip_vlan,2",)  # 1.0 alone: 1.3 wants a match on the tag
LATER = (  # 1.3 alone
    "goto_table:9", "write_metadata:0x5/0xff,goto_table:3", "clear_actions", "write_actions(output:2)",
    "meter:1,output:2", "group:1", "push_vlan:0x8100,2",
    "push_mpls:0x8847,2", "set_field:02:00:00:00:00:01->eth_dst,2", "set_field:7->reg0,2",
    "set_field:0x10/0xf0->metadata,2",
)  # fmt: skip


def flows(version: str) -> list[str]:
    """Flow entries of every match and action that ovs-ofctl has and this version."""
    found = [f"priority={200 + index},{match},actions=2" for index, match in enumerate(MATCHES)]
    found += [f"priority={400 + index},dl_type=0x88b5,actions={each}" for index, each in enumerate(ACTIONS)]
    found += [f"priority={600 + index},tcp,actions={each}" for index, each in enumerate(IP_ACTIONS)]
    own = LATER if version == "OpenFlow13" else EARLIER
    found += [f"priority={700 + index},dl_type=0x88b5,actions={each}" for index, each in enumerate(own)]
    return [*found, "table=1,idle_timeout=60,hard_timeout=600,cookie=0x1234,send_flow_rem,priority=5,actions=drop"]


GROUPS_AND_METERS = (
    ("add-meter", "meter=1,kbps,burst,band=type=drop,rate=1000,burst_size=100"),
    ("add-meter", "meter=2,pktps,band=type=drop,rate=10"),
    ("mod-meter", "meter=2,pktps,band=type=drop,rate=20"),
    ("add-group", "group_id=1,type=all,bucket=output:2,bucket=output:3"),
    ("add-group", "group_id=2,type=select,bucket=weight:1,output:2,bucket=weight:2,output:3"),
    ("add-group", "group_id=3,type=indirect,bucket=mod_vlan_vid:5,output:2"),
    ("add-group", "group_id=4,type=ff,bucket=watch_port:2,output:2,bucket=watch_port:3,output:3"),
    ("mod-group", "group_id=3,type=indirect,bucket=output:3"),
)
CHANGES = (
    ("add-flow", "check_overlap,priority=200,in_port=1,actions=3"),
    ("add-flow", "check_overlap,priority=200,in_port=1,dl_vlan=9,actions=3"),
    ("mod-flows", "cookie=0x1234/-1,table=1,actions=2"),
    ("--strict", "mod-flows", "priority=200,in_port=1,actions=3"),
    ("dump-flows",), ("dump-flows", "tcp"), ("dump-flows", "table=1"), ("dump-flows", "out_port=3"),
    ("dump-flows", "cookie=0x1234/-1"), ("dump-aggregate", "udp"),
    ("--strict", "del-flows", "priority=201,dl_src=02:00:00:00:00:01"), ("del-flows", "out_port=3"),
    ("dump-flows",), ("dump-aggregate",),
)  # fmt: skip
READING = (
    ("dump-groups",), ("dump-groups", "2"), ("dump-group-stats", "1"), ("dump-group-features",), ("dump-meters",),
    ("meter-stats", "meter=1"), ("meter-features",), ("--bundle", "add-flow", "priority=900,in_port=3,actions=2"),
    ("del-groups", "group_id=2"), ("del-meter", "meter=2"), ("dump-groups",), ("dump-meters",), ("dump-flows",),
)  # fmt: skip


def commands(version: str, file: Path) -> list[tuple[str, ...]]:
    """What ovs-ofctl is told, without its target; ``file`` holds the flows."""
    later = version == "OpenFlow13"
    file.write_text("\n".join(flows(version)))
    return [
        ("show",), ("dump-desc",), ("dump-ports",), ("queue-stats",), ("get-frags",),
        *(GROUPS_AND_METERS if later else (("dump-tables",),)), ("add-flows", str(file)), *CHANGES,
        *(READING if later else ()), ("set-frags", "drop"), ("get-frags",), ("mod-port", "2", "no-forward"), ("probe",),
        ("del-flows",),
    ]  # fmt: skip


def record(version: str, file: Path) -> None:
    """One file."""
    with tempfile.TemporaryDirectory() as name, Host("capture") as host:
        switch = OpenVSwitch(host, Path(name), bridge={"protocols": "OpenFlow10,OpenFlow13"})
        switch.vsctl("set", "bridge", "br0", "other-config:datapath-id=00000000000000a1", "fail_mode=secure")
        for port in PORTS:
            switch.add_port(port, "internal")
        switch.vsctl("set-controller", "br0", "ptcp:6653:127.0.0.1")
        host.up("lo")
        with tempfile.NamedTemporaryFile() as written:
            capture = host.start("tcpdump", "-i", "lo", "-U", "-Z", "root", "-w", written.name, "tcp port 6653")
            time.sleep(2)
            for command in commands(version, Path(name) / "flows"):
                options = [each for each in command if each.startswith("--")]
                verb, *operands = [each for each in command if not each.startswith("--")]
                host.run("ovs-ofctl", "--no-names", "-O", version, *options, verb, TARGET, *operands, check=False)
            time.sleep(1)
            capture.send_signal(signal.SIGINT)
            capture.wait(10)
            file.write_bytes(Path(written.name).read_bytes())


def main() -> None:
    for version in ("OpenFlow10", "OpenFlow13"):
        record(version, HERE / f"{version.lower()}.pcap")


if __name__ == "__main__":
    main()
