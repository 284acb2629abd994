"""Compiles `worker/compiled`: in place when run as a program (`make native`), into a wheel by `make wheel-native`.

Without it a wheel is pure Python, and the worker does the same with more processor time.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
SOURCES = sorted(ROOT.glob("worker/compiled/*.pyx"))


class CompileHook(BuildHookInterface[Any]):
    """Makes the wheel one for this platform, with the compiled modules in it."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say that the wheel depends on the platform. *version* is `standard` or `editable`."""
        if version == "editable":
            return
        compile_in_place()
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["artifacts"].append("worker/compiled/*.so")


def compile_in_place() -> None:
    """Compile every `.pyx` beside itself. Raises what the compiler raises."""
    from Cython.Build import cythonize  # noqa: PLC0415 - needed only where something is compiled
    from setuptools import Extension, setup  # noqa: PLC0415

    extensions = [
        Extension(".".join(source.relative_to(ROOT).with_suffix("").parts), [str(source.relative_to(ROOT))])
        for source in SOURCES
    ]
    setup(
        name="worker-compiled",
        packages=[],
        py_modules=[],
        ext_modules=cythonize(extensions, force=True, quiet=True, language_level=3),
        script_args=["--quiet", "build_ext", "--inplace"],
    )


if __name__ == "__main__":
    sys.exit(compile_in_place())
