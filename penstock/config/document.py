"""The reference part of docs/configuration.md, made from the declarations that the parser uses.

`python -m penstock.config.document` prints it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

from penstock.config.schema import REQUIRED, Setting, settings_of, shown
from penstock.config.tables import PORT_SETTINGS
from penstock.ports import KINDS
from penstock.ports.spec import BridgeSpec, TableSpec
from penstock.switch.settings import EngineSettings


def reference() -> str:
    """Markdown: a table of keys for each TOML table."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield from _table("`[engine]`", settings_of(EngineSettings))
    yield from _table("`[bridge.BRIDGE]`", settings_of(BridgeSpec))
    yield from _table("`[bridge.BRIDGE.table.NUMBER]`", settings_of(TableSpec))
    kinds = replace(PORT_SETTINGS["type"], hint=Literal[tuple(KINDS)])
    yield from _table("`[bridge.BRIDGE.port.PORT]`, any type", {**PORT_SETTINGS, "type": kinds})
    for name, kind in KINDS.items():
        own = settings_of(kind.Options)
        if own:
            yield from _table(f'`type = "{name}"`', own)
        else:
            yield from (f'### `type = "{name}"`', "", "No keys of its own.", "")


def _table(heading: str, settings: Mapping[str, Setting]) -> Iterator[str]:
    yield f"### {heading}"
    yield ""
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for setting in settings.values():
        sentence = setting.sentence.replace("|", "\\|")
        yield f"| `{setting.key}` | {setting.allowed} | {_default(setting)} | {sentence} |"
    yield ""


def _default(setting: Setting) -> str:
    if setting.default is REQUIRED:
        return "must be given"
    if setting.default is None:
        return "none"
    return f"`{shown(setting.default)}`"


if __name__ == "__main__":
    print(reference())
