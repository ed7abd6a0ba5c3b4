"""How the demonstration prints what it saw."""

from __future__ import annotations

import pytest

from penstock.demo.telling import demo_console


def test_a_mac_address_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    demo_console().print("22:2b:e0:ab:16:6f")
    assert capsys.readouterr().out == "22:2b:e0:ab:16:6f\n"
