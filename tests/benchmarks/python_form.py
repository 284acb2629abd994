"""`cim-worker` without what is compiled: `python -m tests.benchmarks.python_form run …`.

The supervisor starts each worker as a process of its own, which loads this module again.
"""

from __future__ import annotations

import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path

_WORKER = str(Path(__file__).parents[2] / "worker")


def _find_sources(folder: str) -> FileFinder:
    """Find nothing but sources below `worker`."""
    if not folder.startswith(_WORKER):
        raise ImportError
    return FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES))


sys.path_hooks.insert(0, _find_sources)

if __name__ == "__main__":
    from worker.cli import main

    main()
