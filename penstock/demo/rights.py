"""The rights that the demo needs: root's, or those of root in a user namespace that it enters by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import NoReturn

from penstock.observe.doctor import Check, packet_sockets, rights, tun_device, user_namespaces

INSIDE = "PENSTOCK_DEMO_INSIDE"
UNSHARE = ("unshare", "--user", "--map-root-user", "--net")


class RightsError(Exception):
    """The demo cannot run here; the text says why and what to do."""


def acquire() -> None:
    """Return with the right to make namespaces and devices, if need be in this program's second run of itself.

    Raises RightsError when neither root nor a user namespace is to be had.
    """
    _require(shutil.which("unshare") and shutil.which("nsenter"), "needs unshare and nsenter: install util-linux")
    if rights().verdict == "bad" and INSIDE not in os.environ:
        _enter_user_namespace()
    for check in (rights(), tun_device(), packet_sockets()):
        _require(check.verdict != "bad", _in_words(check))


def inside() -> bool:
    """Whether this is the run inside a user namespace of its own."""
    return INSIDE in os.environ


def _enter_user_namespace() -> NoReturn:
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        advice = user_namespaces().advice
        raise RightsError(
            f"not root, and this user may make no namespaces here ({tried.stderr.strip()}):"
            " run it as root (sudo make demo)" + (f", or allow them (as root): {advice}" if advice else "")
        )
    arguments = [*UNSHARE, sys.executable, "-m", "penstock.demo", *sys.argv[1:]]
    os.execvpe(arguments[0], arguments, {**os.environ, INSIDE: "1"})


def _require(holds: object, otherwise: str) -> None:
    if not holds:
        raise RightsError(otherwise)


def _in_words(check: Check) -> str:
    return f"{check.name} {check.found}; {check.advice} (as root), or run the demo as root: sudo make demo"
