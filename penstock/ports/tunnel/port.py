"""The kinds of tunnel port: what they say and take, in the words of the underlay, which does the rest."""

from __future__ import annotations

from typing import ClassVar

from penstock.datapath.layout import EGRESS_TUNNEL
from penstock.datapath.tunnel.layout import GENEVE, GRE, VXLAN
from penstock.ports.base import Health, Port, PortError
from penstock.ports.tunnel.header import Shape
from penstock.ports.tunnel.options import GeneveOptions, GreOptions, VxlanOptions, address_of, mapped
from penstock.ports.tunnel.plan import TunnelPlan

TUNNEL_MTU = 65535  # the way to each far end limits what goes in


class TunnelPort(Port):
    """A port whose frames travel in packets of another bridge."""

    egress: ClassVar[int] = EGRESS_TUNNEL
    number_of_kind: ClassVar[int]

    def open(self) -> None:
        self.mtu = TUNNEL_MTU
        plan = self.plan()
        self.vlans = tuple(plan.vnis)
        self.tunnel = self.context.underlay.add(plan)

    def start(self) -> None:
        self.context.underlay.begin(self.name)

    def stop(self) -> None:
        self.context.underlay.end(self.name)

    def close(self) -> None:
        self.context.underlay.remove(self.name)

    def check(self) -> tuple[Health, str]:
        trouble = self.context.underlay.trouble(self.name)
        return ("down", trouble) if trouble else ("up", "")

    def plan(self) -> TunnelPlan:
        """What is asked, checked. Raises PortError."""
        options = self.options
        remote, local = address_of(options.remote_ip or "flow"), address_of(options.local_ip or "flow")
        if remote is not None and local is not None and remote.version != local.version:
            raise PortError(f"port '{self.name}': remote_ip {remote} and local_ip {local} are not of one family")
        if remote is not None and remote.is_multicast:
            raise PortError(f"port '{self.name}': remote_ip {remote} is a group: use 'vnis' and 'remotes'")
        out_key = options.key if options.out_key is None else options.out_key
        in_key = options.key if options.in_key is None else options.in_key
        tos, ttl = options.tos, options.ttl
        return TunnelPlan(
            name=self.name,
            shape=Shape(
                kind=self.number_of_kind,
                port=getattr(options, "dst_port", 0),
                key=0 if out_key in (None, "flow") else int(out_key),
                keyed=out_key is not None,
                checksum=options.csum,
                tos=0 if tos == "inherit" else tos & 0xFC,
                ttl=64 if ttl == "inherit" else ttl or 64,
                dont_fragment=options.df_default,
                gpe="gpe" in getattr(options, "exts", ()),
            ),
            remote=remote,
            local=local,
            in_key=None if in_key == "flow" else int(in_key or 0),
            key_by_flow=out_key == "flow",
            tos_inherit=tos == "inherit",
            ttl_inherit=ttl == "inherit",
            group_policy="gbp" in getattr(options, "exts", ()),
            mark=options.egress_pkt_mark,
            vnis={vlan: vni for text in getattr(options, "vnis", ()) for vlan, vni in mapped(text).items()},
            floods=tuple(getattr(options, "remotes", ())),
        )


class Vxlan(TunnelPort):
    """Ethernet in VXLAN."""

    kind: ClassVar[str] = "vxlan"
    Options: ClassVar[type] = VxlanOptions
    number_of_kind = VXLAN


class Geneve(TunnelPort):
    """Ethernet in Geneve."""

    kind: ClassVar[str] = "geneve"
    Options: ClassVar[type] = GeneveOptions
    number_of_kind = GENEVE


class Gre(TunnelPort):
    """Ethernet in GRE."""

    kind: ClassVar[str] = "gre"
    Options: ClassVar[type] = GreOptions
    number_of_kind = GRE
