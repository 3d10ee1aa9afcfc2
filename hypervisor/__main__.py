"""``python -m hypervisor``."""

from __future__ import annotations

import sys

from hypervisor.cli import main

if __name__ == "__main__":
    sys.exit(main())
