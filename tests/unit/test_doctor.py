"""The doctor's checks on this machine, and on one that lacks things."""

from __future__ import annotations

import errno
import os
import platform
import socket
from typing import Any

import pytest

from penstock.observe import doctor


def test_every_check_gives_a_verdict_and_advice_when_something_is_wrong() -> None:
    checks = doctor.examine()
    assert len({check.name for check in checks}) == len(doctor.CHECKS)
    for check in checks:
        assert check.verdict in ("good", "fair", "bad")
        assert check.found
        assert check.verdict == "good" or check.advice


def test_an_old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: "4.19.0-27-amd64")
    check = doctor.kernel_version()
    assert (check.verdict, check.found) == ("bad", "Linux 4.19.0-27-amd64")
    monkeypatch.setattr(platform, "release", lambda: "6.1.0")
    assert doctor.kernel_version().verdict == "fair"


def test_no_tun_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any) -> int:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(os, "open", refuse)
    check = doctor.tun_device()
    assert check.verdict == "bad"
    assert "modprobe tun" in check.advice


def test_no_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_has_capability", lambda _number: False)
    check = doctor.rights()
    assert check.verdict == "bad"
    assert "CAP_NET_ADMIN, CAP_NET_RAW" in check.advice


def test_no_packet_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(socket, "socket", refuse)
    assert doctor.packet_sockets().verdict == "bad"
