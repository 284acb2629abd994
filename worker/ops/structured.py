"""structlog without rich, which it loads for tracebacks that our log does not show: 4 MiB and 50 ms of each process."""

from __future__ import annotations

import sys

_HAS_RICH = "rich" in sys.modules
if not _HAS_RICH:
    sys.modules["rich"] = None  # type: ignore[assignment] # as if it were not installed
try:
    import structlog
finally:
    if not _HAS_RICH:
        del sys.modules["rich"]

__all__ = ["structlog"]
