"""A learning switch on os-ken: `OPENFLOW=1.3 python -m tests.system.controllers.learning_switch PORT`.

Packets that no flow matches come here; addresses are learned, and a flow is added for each pair of them.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from os_ken import cfg
from os_ken.base import app_manager
from os_ken.controller import ofp_event
from os_ken.controller.handler import CONFIG_DISPATCHER, MAIN_DISPATCHER, set_ev_cls
from os_ken.lib.packet import ethernet, packet
from os_ken.ofproto import ofproto_v1_0, ofproto_v1_3

VERSIONS = {"1.0": ofproto_v1_0.OFP_VERSION, "1.3": ofproto_v1_3.OFP_VERSION}


class LearningSwitch(app_manager.OSKenApp):  # type: ignore[misc]
    """Learns on packet-ins."""

    OFP_VERSIONS = [VERSIONS[os.environ.get("OPENFLOW", "1.3")]]  # noqa: RUF012 - os-ken's interface

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ports: dict[tuple[int, str], int] = {}

    @set_ev_cls(ofp_event.EventOFPSwitchFeatures, CONFIG_DISPATCHER)  # type: ignore[untyped-decorator]
    def greet(self, event: Any) -> None:
        """In 1.3 a switch drops what no flow matches, unless a flow of priority 0 says otherwise."""
        datapath = event.msg.datapath
        proto, parser = datapath.ofproto, datapath.ofproto_parser
        if proto.OFP_VERSION == ofproto_v1_3.OFP_VERSION:
            actions = [parser.OFPActionOutput(proto.OFPP_CONTROLLER, proto.OFPCML_NO_BUFFER)]
            apply = [parser.OFPInstructionActions(proto.OFPIT_APPLY_ACTIONS, actions)]
            datapath.send_msg(parser.OFPFlowMod(datapath, priority=0, match=parser.OFPMatch(), instructions=apply))

    @set_ev_cls(ofp_event.EventOFPPacketIn, MAIN_DISPATCHER)  # type: ignore[untyped-decorator]
    def learn(self, event: Any) -> None:
        """Learn, add a flow when the destination is known, and send the packet on."""
        message = event.msg
        datapath = message.datapath
        proto, parser = datapath.ofproto, datapath.ofproto_parser
        is_13 = proto.OFP_VERSION == ofproto_v1_3.OFP_VERSION
        in_port = message.match["in_port"] if is_13 else message.in_port
        header = packet.Packet(message.data).get_protocol(ethernet.ethernet)
        self.ports[datapath.id, header.src] = in_port
        out = self.ports.get((datapath.id, header.dst), proto.OFPP_FLOOD)
        actions = [parser.OFPActionOutput(out)]
        if out != proto.OFPP_FLOOD:
            self._add(datapath, in_port, header, actions)
        datapath.send_msg(
            parser.OFPPacketOut(
                datapath=datapath, buffer_id=proto.OFP_NO_BUFFER if is_13 else 0xFFFFFFFF, in_port=in_port,
                actions=actions, data=message.data,
            )
        )  # fmt: skip

    @staticmethod
    def _add(datapath: Any, in_port: int, header: Any, actions: list[Any]) -> None:
        proto, parser = datapath.ofproto, datapath.ofproto_parser
        if proto.OFP_VERSION == ofproto_v1_3.OFP_VERSION:
            match = parser.OFPMatch(in_port=in_port, eth_dst=header.dst, eth_src=header.src)
            apply = [parser.OFPInstructionActions(proto.OFPIT_APPLY_ACTIONS, actions)]
            mod = parser.OFPFlowMod(datapath=datapath, priority=1, match=match, instructions=apply)
        else:
            match = parser.OFPMatch(in_port=in_port, dl_dst=_bytes(header.dst), dl_src=_bytes(header.src))
            mod = parser.OFPFlowMod(datapath, match=match, command=proto.OFPFC_ADD, priority=1, actions=actions)
        datapath.send_msg(mod)


def _bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def main() -> None:
    cfg.CONF(args=[f"--ofp-tcp-listen-port={sys.argv[1]}", "--ofp-listen-host=127.0.0.1"], project="os_ken")
    app_manager.AppManager.run_apps(["tests.system.controllers.learning_switch"])


if __name__ == "__main__":
    main()
