"""The picture in `worker.pipeline` names what decides each outcome: all outcomes, and functions that exist."""

from __future__ import annotations

import importlib
import re

import worker.pipeline
from worker.outcome import Outcome

ROWS = re.findall(r"^\| ([a-z, ]+) \| (.*) \|$", worker.pipeline.__doc__ or "", re.MULTILINE)


def test_every_outcome_has_one_row() -> None:
    named = [outcome for names, _ in ROWS for outcome in names.split(", ")]

    assert sorted(named) == sorted(outcome.value.replace("_", " ") for outcome in Outcome)


def test_what_decides_exists() -> None:
    for path in [path for _, text in ROWS for path in re.findall(r"`([\w.]+)`", text)]:
        module, *members = path.split(".") if not path.startswith("worker.") else [path]
        found = importlib.import_module(module if module.startswith("worker.") else f"worker.pipeline.{module}")
        for member in members:
            found = getattr(found, member)
