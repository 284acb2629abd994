"""What is compiled where it was built (`make native`): the same answers as Python gives, in less processor time.

`bson`, `frames` and `scan` are modules, or None where they were not built; then the caller's own Python does the same.
Nothing else asks which form there is. What they do is in the `.pyx` files beside this one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that calls are checked against their `.pyi`; whether a module is there, no type can tell
    from worker.compiled import bson as bson
    from worker.compiled import frames as frames
    from worker.compiled import scan as scan
else:

    def _module(name: str) -> Any:
        try:
            return import_module(f"worker.compiled.{name}")
        except ModuleNotFoundError:  # it was not built here
            return None

    bson = _module("bson")
    frames = _module("frames")
    scan = _module("scan")
