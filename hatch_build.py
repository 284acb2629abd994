"""Compiles what every message goes through: in place as a program (`make native`), into a wheel by `make wheel-native`.

`worker/compiled` has modules of its own, each the second form of something in Python. Without them a wheel is pure
Python, and the worker does the same with more processor time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
OWN_FORM = sorted(ROOT.glob("worker/compiled/*.pyx"))


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
        build_data["artifacts"].append("worker/**/*.so")


def compile_in_place() -> None:
    """Compile all of it, each beside its source. Raises what the compiler raises."""
    from Cython.Build import cythonize  # noqa: PLC0415 - needed only where something is compiled
    from setuptools import Extension, setup  # noqa: PLC0415

    extensions = [
        Extension(
            ".".join(source.relative_to(ROOT).with_suffix("").parts),
            [str(source.relative_to(ROOT))],
            extra_compile_args=["-O2", "-g0"],
        )
        for source in OWN_FORM
    ]
    processors = os.cpu_count() or 1
    setup(
        name="worker-compiled",
        packages=[],
        py_modules=[],
        # Annotations are for the type checker: they must not become checks of exact types.
        ext_modules=cythonize(
            extensions,
            force=True,
            quiet=True,
            language_level=3,
            nthreads=processors,
            compiler_directives={"annotation_typing": False},
        ),
        script_args=["--quiet", "build_ext", "--inplace", f"-j{processors}"],
    )


if __name__ == "__main__":
    sys.exit(compile_in_place())
