"""Where our processor time goes: shares by part of the program, and the functions that cost most."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.benchmarks.contenders import Command
from tests.benchmarks.throughput import run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.benchmarks.stage import Stage
    from tests.benchmarks.throughput import Result

# The first that is part of the file's path names the part.
_PARTS: Final = (
    ("worker/cim/", "decode and validate"),
    ("json/", "decode and validate"),
    ("worker/pipeline/translate.py", "translate and encode the event"),
    ("worker/rabbit/publisher.py", "publish and confirms"),
    ("worker/rabbit/properties.py", "AMQP codec"),
    ("worker/rabbit/frames.py", "AMQP codec"),
    ("worker/rabbit/fast_path.py", "AMQP framing"),
    ("pika/", "pika (transport)"),
    ("worker/rabbit/", "consume and acknowledge"),
    ("worker/mongo/", "store"),
    ("bson/", "store"),
    ("pymongo/", "store"),
    ("structlog/", "log"),
    ("logging/", "log"),
    ("worker/ops/", "log and count"),
    ("worker/dead_letters/", "dead letters"),
    ("asyncio/", "asyncio"),
    ("selectors.py", "asyncio"),
    ("worker/", "pipeline and the rest of the worker"),
)


@dataclass(frozen=True, slots=True)
class Profile:
    """Shares of the processor time, 0 to 1."""

    result: Result
    parts: Mapping[str, float]
    functions: Mapping[str, float]


def profile(stage: Stage, workload: str, messages: int) -> Profile:
    """Run *workload* under the sampler."""
    with tempfile.TemporaryDirectory(prefix="cim-bench-") as folder:
        samples = Path(folder) / "samples.json"
        arguments = ("-m", "tests.benchmarks.sampled_worker", str(samples), "run")
        result = run(stage, Command("cim-worker, sampled", arguments, {}), workload, messages)
        return _read(result, json.loads(samples.read_text()))


def _read(result: Result, samples: list[tuple[str, str, int]]) -> Profile:
    parts: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for path, function, count in samples:
        if "importlib" in path or function == "<module>":
            continue
        parts[_part(path)] += count
        functions[f"{Path(path).parent.name}/{Path(path).name} {function}"] += count
    total = parts.total()
    return Profile(
        result,
        {name: count / total for name, count in parts.most_common()},
        {name: count / total for name, count in functions.most_common(25)},
    )


def _part(path: str) -> str:
    return next((part for piece, part in _PARTS if piece in path), "other")
