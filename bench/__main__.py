"""``python -m bench``: busy cycles per packet."""

from bench.cycles import main

raise SystemExit(main())
