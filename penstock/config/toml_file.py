"""Read a TOML file, with its faults put as the other faults of a configuration are."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from penstock.config.errors import ConfigError, Problem


def read_toml(file: Path) -> dict[str, Any]:
    """The file's tables. Raises ConfigError when it cannot be read or is no TOML."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(file, [Problem("", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            file, [Problem("", f"is not UTF-8 text: byte {error.start} is 0x{error.object[error.start]:02x}")]
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(file, [Problem("", f"is not valid TOML: {error}")]) from error
