"""``python -m pfinet_client`` is ``pfinet-client``."""

from __future__ import annotations

import sys

from pfinet_client.cli import main

if __name__ == "__main__":
    sys.exit(main())
