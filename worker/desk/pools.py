"""Pools as their processes report them: who is there, who is ready, and whether somebody paused them. No I/O."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

GONE_MS: Final = 30_000
"""A process that did not report for this long is gone."""
FORGOTTEN_MS: Final = 300_000
"""One that did not for this long is forgotten."""
_ALL: Final = "*"
"""The document that speaks for all pools."""


class Pool(NamedTuple):
    """One pool at one moment."""

    name: str
    processes: int
    """Those that reported within half a minute."""
    ready: int
    silent: int
    """Those that did not, and did not say that they stop."""
    not_ready: tuple[str, ...]
    """Why some are not ready, each reason once."""
    versions: tuple[str, ...]
    is_paused: bool
    paused_by: str
    paused_because: str

    @property
    def is_pool(self) -> bool:
        """Whether it is one, and not what is said of all of them."""
        return self.name != _ALL

    @property
    def title(self) -> str:
        """What people call it."""
        return f"pool {self.name}" if self.is_pool else "all pools"

    def in_words(self) -> str:
        """Return it in one line."""
        parts = [f"{self.processes} {'process' if self.processes == 1 else 'processes'}, {self.ready} ready"]
        if not self.is_pool:
            parts = []
        if self.silent:
            parts.append(f"{self.silent} silent")
        if self.is_paused:
            parts.append(self.pause_in_words())
        if self.versions:
            parts.append(f"version {' and '.join(self.versions)}")
        return f"{self.title}: {', '.join(parts) or 'not paused'}"

    def pause_in_words(self) -> str:
        """Return who paused it and why."""
        by = f" by {self.paused_by}" if self.paused_by else ""
        return f"paused{by}{f' ({self.paused_because})' if self.paused_because else ''}"

    def attention(self) -> list[str]:
        """Return what somebody should look after."""
        if self.is_paused:
            return [f"{self.title} {self.pause_in_words()}; go on with `{resume_command(self.name)}`"]
        found = [f"{self.title}: not ready: {reason}" for reason in self.not_ready]
        if self.silent:
            found.append(f"{self.title}: {self.silent} silent for more than half a minute")
        return found


def resume_command(name: str) -> str:
    """Return the command that ends the pause of the pool *name*; without a name it is that of CIM_POOL alone."""
    return f"cim-worker resume {'--all' if name == _ALL else f'--pool {shlex.quote(name)}'}"


def read_pool(document: Mapping[str, Any], now: int) -> Pool:
    """Return the pool of a document of the collection `pools` at *now* (epoch ms), whatever is in it."""
    ages = [age_of(one, now) for one in processes_of(document).values()]
    living = living_processes(document, now)
    reasons = [str(reason) for one in living if one.get("ready") is False for reason in _list(one.get("reasons"))]
    return Pool(
        name=str(document.get("_id")),
        processes=len(living),
        ready=sum(one.get("ready") is True for one in living),
        silent=sum(GONE_MS < age < FORGOTTEN_MS for age in ages),
        not_ready=tuple(dict.fromkeys(reasons)),
        versions=tuple(sorted({str(one["version"]) for one in living if "version" in one})),
        is_paused=document.get("paused") is True,
        paused_by=str(document.get("pausedBy") or ""),
        paused_because=str(document.get("reason") or ""),
    )


def living_processes(document: Mapping[str, Any], now: int) -> list[dict[str, Any]]:
    """Return the processes of a pool that reported within half a minute before *now* (epoch ms)."""
    return [one for one in processes_of(document).values() if age_of(one, now) <= GONE_MS]


def processes_of(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what the processes of a pool reported last, by their keys; strange entries are left out."""
    found = document.get("processes")
    return {key: one for key, one in found.items() if isinstance(one, dict)} if isinstance(found, dict) else {}


def age_of(process: Mapping[str, Any], now: int) -> int:
    """Return how long ago a process reported; long ago for an entry that does not say."""
    return now - at if isinstance(at := process.get("at"), int) else FORGOTTEN_MS + 1


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
