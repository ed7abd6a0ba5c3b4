"""One front end's session: what it has told of the guest, and the guest's rings in and out of service.

The main thread's alone. ``requests`` changes it as the front end asks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

from penstock.ports.vhost_user.dirty_log import DirtyLog
from penstock.ports.vhost_user.memory import GuestMemory
from penstock.ports.vhost_user.messages import ProtocolFeature
from penstock.ports.vhost_user.progress import Progress
from penstock.ports.vhost_user.virtio import Feature, mask
from penstock.ports.vhost_user.vring import Vring


class Owner(Protocol):
    """What a session tells its port."""

    def rings_changed(self) -> None:
        """Rings came into or went out of service, or their kick descriptors changed."""

    def features_changed(self, features: int) -> None:
        """The guest and we agreed on these features."""

    def mtu_changed(self, mtu: int) -> None:
        """The guest's MTU."""


class Session:
    """The state of one guest, from its connection to its end."""

    def __init__(
        self,
        owner: Owner,
        offered: int,
        vrings: list[Vring],
        memory: GuestMemory,
        log: DirtyLog,
        progress: Progress,
    ) -> None:
        self.owner = owner
        self.offered = offered
        self.vrings = vrings
        self.memory = memory
        self.log = log
        self.progress = progress
        self.features = 0
        self.protocol_features = 0
        self.status = 0
        self.mtu: int | None = None

    def has(self, feature: ProtocolFeature) -> bool:
        """Whether a protocol feature was agreed on."""
        return bool(self.protocol_features >> feature & 1)

    def end(self) -> None:
        """Take everything out of service and let it go."""
        self.stop_rings()
        for vring in self.vrings:
            vring.forget()
        self.log.close()
        self.progress.renew()
        self.memory.replace([], [])

    def stop_rings(self) -> None:
        """Take every ring out of service."""
        for vring in self.vrings:
            vring.stop()
        self.owner.rings_changed()

    def apply_features(self) -> None:
        """Do what the features agreed on ask for."""
        self.log.enable(bool(self.features & mask(Feature.LOG_ALL)))
        if not self.features & mask(Feature.PROTOCOL_FEATURES):
            for vring in self.vrings:
                vring.enabled = True  # nobody will say so
        self.owner.features_changed(self.features)

    def with_rings_stopped(self, change: Callable[[], None]) -> None:
        """Change the memory that rings lie in, and put them back into service in the new one."""
        running = [vring for vring in self.vrings if vring.running]
        for vring in running:
            vring.stop()
        change()
        for vring in running:
            self._start(vring)
        if running:
            self.owner.rings_changed()

    def start_if_ready(self, vring: Vring) -> None:
        """Put a ring into service when everything is known that it takes."""
        if not vring.running and vring.ready(self.memory):
            self._start(vring)
            self.owner.rings_changed()

    def start_ready_rings(self) -> None:
        """Put every ring into service that can be."""
        for vring in self.vrings:
            self.start_if_ready(vring)

    def _start(self, vring: Vring) -> None:
        vring.start(self.memory, self.features, self.progress.word(vring.index))

    def to_json(self) -> dict[str, Any]:
        """What a successor needs besides the descriptors of ``descriptors``, in that order."""
        return {
            "features": self.features,
            "protocol_features": self.protocol_features,
            "status": self.status,
            "mtu": self.mtu,
            "regions": [asdict(region.spec) for region in self.memory.regions],
            "log": {"size": self.log.size, "offset": self.log.offset} if self.log.fd >= 0 else None,
            "progress": self.progress.to_json(),
            "vrings": [vring.to_json() for vring in self.vrings],
        }

    def resume(self, mtu: int | None) -> None:
        """Put rings back into service after the state was set to a predecessor's."""
        self.apply_features()
        self.mtu = mtu
        if mtu is not None:
            self.owner.mtu_changed(mtu)
        self.start_ready_rings()
