"""Runs an application of os-ken 1.4 as its manager does: ``rest.py --ofp-tcp-listen-port N --wsapi-port N MODULE``.

A Python environment of its own runs this: see requirements.txt. Later versions of eventlet lack a name that os-ken
imports, for answers over WebSocket, of which the REST applications make none.
"""

from __future__ import annotations

import sys

import eventlet.wsgi  # type: ignore[import-not-found]

eventlet.wsgi.ALREADY_HANDLED = object()

from os_ken.cmd.manager import main  # noqa: E402

sys.exit(main())
