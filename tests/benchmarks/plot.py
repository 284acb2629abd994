"""Small pictures of the results, from their JSON: `python -m tests.benchmarks.plot results.json throughput.png`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

_OURS: Final = "#1f77b4"
_OTHERS: Final = "#b0b0b0"
_LIMITS: Final = "#e0c080"
_WORKLOADS: Final = ("live", "stored", "mixed")


def throughput(outcome: dict[str, Any], target: Path) -> None:
    """Draw the medians of every contender in each workload."""
    figure, axes = plt.subplots(1, len(_WORKLOADS), figsize=(11, 3.2), layout="constrained")
    for axis, workload in zip(axes, _WORKLOADS, strict=True):
        rates: dict[str, list[float]] = {}
        for result in outcome["results"]:
            if result["workload"] == workload:
                rates.setdefault(result["contender"], []).append(result["rate"])
        names = list(rates)[::-1]
        bars = axis.barh(names, [median(rates[name]) / 1000 for name in names], color=[_colour(name) for name in names])
        axis.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)
        axis.set_title(f"all {workload}" if workload != "mixed" else "mixed", fontsize=9)
        axis.set_xlabel("1000 messages/s", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.margins(x=0.15)
    figure.savefig(target, dpi=90)
    plt.close(figure)


def curves(measured: dict[str, Any], target: Path) -> None:
    """Draw throughput against each setting."""
    figure, axes = plt.subplots(1, len(measured), figsize=(2.8 * len(measured), 2.6), layout="constrained", sharey=True)
    for axis, (name, values) in zip(axes, measured.items(), strict=True):
        points = [(int(value), median(one["rate"] for one in some) / 1000) for value, some in values.items()]
        axis.plot(*zip(*points, strict=True), marker="o", color=_OURS, markersize=3)
        axis.set_title(name, fontsize=8)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=7)
        axis.grid(visible=True, alpha=0.3)
    axes[0].set_ylabel("1000 messages/s", fontsize=8)
    figure.savefig(target, dpi=90)
    plt.close(figure)


def _colour(name: str) -> str:
    if name.startswith("cim-worker"):
        return _OURS
    return _LIMITS if "limit" in name else _OTHERS


if __name__ == "__main__":
    throughput(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
