"""What this machine offers Penstock and what it lacks, each with what to do about it.

Each check is one function that returns a `Check`; `CHECKS` lists them in the order in which they are shown. They
only look: nothing on the machine is changed. Imports Numba for the compile cache's state, so it is not for hot paths.
"""

from __future__ import annotations

import fcntl
import os
import platform
import resource
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Verdict = Literal["good", "fair", "bad"]

_CAP_NET_ADMIN, _CAP_NET_RAW = 12, 13
_SOL_PACKET, _PACKET_VERSION, _PACKET_VNET_HDR, _TPACKET_V3 = 263, 10, 15, 2
_TUNGETFEATURES = 0x800454CF
_TUN_FEATURES = {"multi-queue": 0x0100, "virtio-net headers": 0x4000}
_WANTED_CPU = {"x86_64": ("sse4_2", "popcnt", "aes", "avx2"), "aarch64": ("crc32", "aes", "atomics")}
_MEMLOCK_WANTED = 64 << 20


@dataclass(frozen=True)
class Check:
    """ "good": nothing to do; "fair": works, but slower or with less; "bad": something will not work."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""


def kernel_version() -> Check:
    release = platform.release()
    major, minor = (int(part) for part in release.split("-")[0].split(".")[:2])
    if (major, minor) < (5, 3):
        return Check("kernel", "bad", f"Linux {release}", "Linux 5.3 or newer is needed (process descriptors)")
    if (major, minor) < (6, 2):
        return Check(
            "kernel", "fair", f"Linux {release}", "Linux 6.2 or newer lets TAP ports pass whole UDP segments too"
        )
    return Check("kernel", "good", f"Linux {release}")


def cpus() -> Check:
    usable = sorted(os.sched_getaffinity(0))
    listed = ", ".join(map(str, usable))
    if len(usable) < 2:
        return Check(
            "CPUs", "fair", f"1 usable ({listed})", "with a second CPU a busy worker would not starve the rest"
        )
    return Check("CPUs", "good", f"{len(usable)} usable ({listed})")


def cpu_features() -> Check:
    machine = platform.machine()
    if machine not in _WANTED_CPU:
        return Check("CPU features", "fair", machine, "tested on x86_64 and aarch64 only")
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    lines = (line.partition(":") for line in text.splitlines())
    flags = next((set(value.split()) for key, _, value in lines if key.strip().lower() in ("flags", "features")), set())
    missing = [flag for flag in _WANTED_CPU[machine] if flag not in flags]
    present = ", ".join(flag for flag in _WANTED_CPU[machine] if flag in flags)
    if missing:
        return Check("CPU features", "fair", present, f"lacks {', '.join(missing)}: hashing and copying will be slower")
    return Check("CPU features", "good", present)


def huge_pages() -> Check:
    found = []
    for directory in sorted(Path("/sys/kernel/mm/hugepages").glob("hugepages-*kB")):
        kilobytes = int(directory.name.removeprefix("hugepages-").removesuffix("kB"))
        free = int((directory / "free_hugepages").read_text(encoding="ascii"))
        if free:
            found.append(f"{free} free of {kilobytes // 1024} MB")
    if found:
        return Check("huge pages", "good", "; ".join(found))
    advice = "plain pages are used; for fewer TLB misses: sysctl vm.nr_hugepages=256"
    return Check("huge pages", "fair", "none free", advice)


def locked_memory() -> Check:
    soft, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return Check("locked memory", "good", "unlimited")
    shown = f"at most {soft >> 10} kB"
    if soft >= _MEMLOCK_WANTED or _has_capability(14):  # CAP_IPC_LOCK lifts the limit
        return Check("locked memory", "good", shown)
    return Check(
        "locked memory", "fair", shown, "rings may be paged out under memory pressure; raise it: ulimit -l unlimited"
    )


def rights() -> Check:
    names = {"CAP_NET_ADMIN": _CAP_NET_ADMIN, "CAP_NET_RAW": _CAP_NET_RAW}
    missing = [name for name, number in names.items() if not _has_capability(number)]
    if missing:
        remedy = "run as root, or inside a user namespace (unshare -Urn), to make TAP and packet ports"
        advice = f"lacks {', '.join(missing)}: {remedy}"
        return Check("rights", "bad", f"user {os.geteuid()}", advice)
    return Check("rights", "good", f"user {os.geteuid()}, CAP_NET_ADMIN, CAP_NET_RAW")


def tun_device() -> Check:
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return Check("/dev/net/tun", "bad", "does not exist", "no TAP ports without it: modprobe tun")
    except OSError as error:
        return Check(
            "/dev/net/tun", "bad", f"cannot be opened: {error.strerror}", "no TAP ports: chmod 0666 /dev/net/tun"
        )
    try:
        answer = fcntl.ioctl(descriptor, _TUNGETFEATURES, bytes(4))
    finally:
        os.close(descriptor)
    (features,) = struct.unpack("I", answer)
    missing = [name for name, bit in _TUN_FEATURES.items() if not features & bit]
    if missing:
        return Check("/dev/net/tun", "fair", "usable", f"this kernel's TAP lacks {', '.join(missing)}")
    return Check("/dev/net/tun", "good", f"usable, with {' and '.join(_TUN_FEATURES)}")


def packet_sockets() -> Check:
    name = "AF_PACKET"
    try:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except PermissionError:
        return Check(name, "bad", "not permitted", "packet ports need CAP_NET_RAW: see rights")
    except OSError as error:
        return Check(
            name, "bad", f"cannot be opened: {error.strerror}", "no packet ports: the kernel lacks CONFIG_PACKET"
        )
    with opened:
        try:
            opened.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
            opened.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        except OSError as error:
            advice = f"packet ports cannot pass large segments or unfinished checksums ({error.strerror})"
            return Check(name, "fair", "usable without offloads", advice)
    return Check(name, "good", "usable, with mapped rings and virtio-net headers (checksum and segmentation offload)")


def user_namespaces() -> Check:
    name = "user namespaces"
    limit = Path("/proc/sys/user/max_user_namespaces")
    if not limit.exists() or int(limit.read_text(encoding="ascii")) == 0:
        return Check(
            name, "fair", "not available", "without root the demo cannot run: sysctl user.max_user_namespaces=10000"
        )
    for switch, forbidden in (
        ("kernel/unprivileged_userns_clone", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ):
        file = Path("/proc/sys") / switch
        if file.exists() and file.read_text(encoding="ascii").strip() == forbidden and os.geteuid() != 0:
            key = switch.replace("/", ".")
            return Check(
                name, "fair", f"forbidden by {key} = {forbidden}", f"sysctl {key}={1 - int(forbidden)}, or run as root"
            )
    return Check(name, "good", "available")


def compile_cache() -> Check:
    from penstock.machine.cache import cache_directory, cache_is_warm

    directory = cache_directory()
    if not cache_is_warm():
        return Check(
            "compile cache", "fair", f"cold: {directory}", "the first start compiles for a while: penstock compile"
        )
    return Check("compile cache", "good", f"warm: {directory}")


def _has_capability(number: int) -> bool:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> number & 1)


CHECKS: tuple[Callable[[], Check], ...] = (
    kernel_version,
    cpus,
    cpu_features,
    huge_pages,
    locked_memory,
    rights,
    tun_device,
    packet_sockets,
    user_namespaces,
    compile_cache,
)


def examine() -> list[Check]:
    """Every check's result."""
    return [check() for check in CHECKS]
