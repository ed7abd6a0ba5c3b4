"""A root file system in memory for a small Linux guest: busybox, the kernel's own modules, an agent that runs commands.

The archive is cpio's "newc" format, which the kernel unpacks as it is given; it is left uncompressed, as an emulated
processor unpacks slower than it reads. The agent answers on a virtio serial port: `guest_channels.Agent` asks.
"""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

BOOT = Path("/boot")
MODULES = Path("/lib/modules")
NEEDED_MODULES = ("virtio_pci", "virtio_console", "virtio_net")

# A command is one line: a number, a blank, the text for the shell. Its output is followed by a line of byte 1, the
# number and the exit code. Commands run one after the other; what is to run beside them is put into the background.
AGENT = """\
until port=$(ls /dev/vport*) 2>/dev/null; do usleep 10000; done
exec <>"$port" >&0
printf '\\001ready\\n'
while read -r number command; do
    /bin/sh -c "$command" </dev/null 2>&1
    printf '\\001%s %s\\n' "$number" "$?"
done
"""

INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
ln -s /proc/self/fd /dev/fd
for each in all default; do echo 0 >/proc/sys/net/ipv6/conf/$each/accept_dad; done  # addresses are usable at once
for module in {modules}; do insmod "/modules/$module"; done
mkfifo /tmp/never  # opened for reading and writing, an input that never ends
ip link set lo up
{agent}
poweroff -f
"""


class GuestError(Exception):
    """A guest cannot be built or booted; the text says what is missing or what it said."""


@dataclass(frozen=True)
class Kernel:
    """A kernel that is installed on this machine."""

    release: str

    @property
    def image(self) -> Path:
        return BOOT / f"vmlinuz-{self.release}"

    @property
    def tree(self) -> Path:
        return MODULES / self.release

    def has(self, module: str) -> bool:
        return module in self._dependencies()

    def in_order(self, modules: Iterable[str]) -> list[Path]:
        """The files of the modules and of all that they need, each after what it needs."""
        known, ordered = self._dependencies(), dict[str, None]()

        def add(module: str) -> None:
            if module not in known:
                raise GuestError(f"kernel {self.release} has no module {module}")
            file, needed = known[module]
            for each in needed:
                add(each)
            ordered[file] = None

        for module in modules:
            add(module)
        return [self.tree / file for file in ordered]

    def _dependencies(self) -> dict[str, tuple[str, list[str]]]:
        """Module name to its file, and to the names of the modules that it needs."""
        found = {}
        for line in (self.tree / "modules.dep").read_text().splitlines():
            file, _, needed = line.partition(":")
            found[_module_name(file)] = file, [_module_name(each) for each in needed.split()]
        return found


def _module_name(file: str) -> str:
    return Path(file).name.partition(".ko")[0].replace("-", "_")


def kernels() -> list[Kernel]:
    """The kernels of this machine that can serve as a guest's, Debian's cloud kernels (the smallest) first."""
    found = [Kernel(image.name.partition("-")[2]) for image in BOOT.glob("vmlinuz-*")]
    usable = [each for each in found if (each.tree / "modules.dep").exists() and all(map(each.has, NEEDED_MODULES))]
    return sorted(usable, key=lambda each: ("cloud" not in each.release, each.release))


def build(
    file: Path,
    kernel: Kernel,
    modules: Iterable[str] = (),
    programs: Iterable[str] = (),
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write the archive: the modules are loaded at boot; `programs` are added with the shared libraries they need."""
    loaded = kernel.in_order([*NEEDED_MODULES, *modules])
    names = [module.name for module in loaded]
    init = INIT.format(modules=" ".join(names), agent=AGENT)
    content: dict[str, tuple[int, bytes]] = {"init": (0o755, init.encode()), "bin/busybox": _program("busybox")}
    for module in loaded:
        content[f"modules/{module.name}"] = 0o644, module.read_bytes()
    content |= {name: (0o644, data) for name, data in (files or {}).items()}
    for program in programs:
        content[f"bin/{program}"] = _program(program)
        for library in _libraries(program):
            content[library.lstrip("/")] = 0o755, Path(library).read_bytes()
    file.write_bytes(b"".join(_archive(content, ("dev", "proc", "sys", "tmp", "run", "root"))))


def _program(name: str) -> tuple[int, bytes]:
    return 0o755, Path(_located(name)).read_bytes()


def _located(name: str) -> str:
    path = shutil.which(name, path="/usr/bin:/usr/sbin:/bin:/sbin")
    if path is None:
        raise GuestError(f"no {name} on this machine to put into the guest: install its package")
    return path


def _libraries(program: str) -> list[str]:
    """The shared libraries of a program, its loader included, under the paths by which it finds them."""
    told = subprocess.run(["ldd", _located(program)], text=True, capture_output=True, check=True).stdout
    return re.findall(r"(?:^\s*|=> )(/\S+) \(0x", told, re.MULTILINE)


def _archive(content: dict[str, tuple[int, bytes]], directories: Iterable[str]) -> Iterator[bytes]:
    """The records of a newc archive (Linux, Documentation/driver-api/early-userspace/buffer-format.rst)."""
    parents = {str(parent) for name in content for parent in Path(name).parents if str(parent) != "."}
    records = [(name, stat.S_IFDIR | 0o755, b"") for name in sorted({*directories, *parents})]
    records += [(name, stat.S_IFREG | mode, data) for name, (mode, data) in content.items()]
    for number, (name, mode, data) in enumerate(records, 1):
        yield _record(number, name, mode, data)
    yield _record(0, "TRAILER!!!", 0, b"")


def _record(number: int, name: str, mode: int, data: bytes) -> bytes:
    path = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return _padded(header) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
