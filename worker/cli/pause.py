"""`cim-worker pause` and `resume`: have pools stop taking messages for a while."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import add_command, print_json, print_line, progress
from worker.cli.services import command_settings, open_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.mongo.pools import Pools
    from worker.settings import Settings

_ENVIRONMENT = ("CIM_MONGODB_URI", "CIM_MONGODB_DATABASE", "CIM_POOL")
_LONGEST_REASON: Final = 500
_LOOK_SECONDS: Final = 0.3
_Pool = Annotated[str | None, typer.Option("--pool", help="Which pool; default: CIM_POOL.")]
_All = Annotated[bool, typer.Option("--all", help="Every pool, those that are started later included.")]
_Reason = Annotated[str, typer.Option("--reason", "-r", help="Why, for everybody who wonders.")]
_Wait = Annotated[float, typer.Option(min=0, max=600, help="Seconds to wait until the processes have followed.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a sentence.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add_command(
        app,
        "pause",
        pause,
        'cim-worker pause --reason "store maintenance until 22:00"',
        'cim-worker pause --all --reason "platform upgrade"',
        environment=_ENVIRONMENT,
    )
    add_command(app, "resume", resume, "cim-worker resume", "cim-worker resume --all", environment=_ENVIRONMENT)


def pause(
    reason: _Reason, pool: _Pool = None, everything: _All = False, wait: _Wait = 15.0, as_json: _Json = False
) -> None:
    """Have a pool stop taking messages: they wait in the queue, and none is lost.

    What is in hand is finished; conversations and dead letters are kept up to date. It lasts until `resume`, through
    restarts of pool and store, and is seen in readiness (503), metrics, log and `status`. Exit code 5 when there is no
    such pool, 1 when a process has not followed in time.
    """
    text = " ".join(reason.split())
    if not text or len(text) > _LONGEST_REASON or not text.isprintable():
        raise CommandError(ExitCode.CONFIGURATION, f"--reason: 1 to {_LONGEST_REASON} characters that can be printed")
    asyncio.run(_change(command_settings(), pool, text, everything=everything, wait=wait, as_json=as_json))


def resume(pool: _Pool = None, everything: _All = False, wait: _Wait = 15.0, as_json: _Json = False) -> None:
    """Have a paused pool take messages again. A pool paused by itself and by --all needs both to be resumed.

    Exit code 5 when there is no such pool; nothing happens to one that is not paused.
    """
    asyncio.run(_change(command_settings(), pool, None, everything=everything, wait=wait, as_json=as_json))


async def _change(
    settings: Settings, pool: str | None, reason: str | None, *, everything: bool, wait: float, as_json: bool
) -> None:
    from worker.mongo.pools import ALL, Pools

    if pool is not None and everything:
        raise CommandError(ExitCode.CONFIGURATION, "--pool and --all: give one of them")
    name = ALL if everything else pool or settings.pool
    async with open_store(settings) as store:
        pools = Pools(store)
        await _refuse_unknown(pools, name, is_own=pool is None)
        await _write(pools, name, reason)
        processes = await _followed(pools, name, wait)
    _report(name, processes, is_paused=reason is not None, as_json=as_json)


async def _refuse_unknown(pools: Pools, name: str, *, is_own: bool) -> None:
    """Raise `CommandError` for a name that was given and no pool has: a typing error would pause nobody."""
    if not is_own and await pools.find(name) is None:
        known = ", ".join(str(one["_id"]) for one in await pools.all()) or "none has reported yet"
        raise CommandError(ExitCode.NOT_FOUND, f"there is no pool {name}; known pools: {known}")


async def _write(pools: Pools, name: str, reason: str | None) -> None:
    from worker.flow.pause import PauseState

    if reason is None:
        await pools.resume(name)
    else:
        from worker.desk.audit import system_user

        state = PauseState(is_paused=True, by=system_user(), reason=reason, at=time.time_ns() // 1_000_000)
        await pools.pause(name, state)


async def _followed(pools: Pools, name: str, wait: float) -> list[dict[str, Any]]:
    """Wait until every living process is as its pool is now; return them all, each with `followed`."""
    deadline = time.monotonic() + wait
    with progress() as display:
        task = display.add_task("waiting for the processes", total=None)
        while True:
            processes = await _processes(pools, name)
            done = sum(one["followed"] for one in processes)
            display.update(task, total=len(processes), completed=done)
            if done == len(processes) or time.monotonic() >= deadline:
                return processes
            await asyncio.sleep(_LOOK_SECONDS)


async def _processes(pools: Pools, name: str) -> list[dict[str, Any]]:
    from worker.desk.pools import living_processes
    from worker.mongo.pools import ALL

    documents, now = await pools.all(), time.time_ns() // 1_000_000
    of_all = any(one["_id"] == ALL and one.get("paused") for one in documents)
    return [
        {
            "pool": one["_id"],
            "host": process.get("host"),
            "pid": process.get("pid"),
            "paused": bool(process.get("paused")),
            "followed": bool(process.get("paused")) is (bool(one.get("paused")) or of_all),
        }
        for one in documents
        if name in {ALL, one["_id"]}
        for process in living_processes(one, now)
    ]


def _report(name: str, processes: Sequence[Mapping[str, Any]], *, is_paused: bool, as_json: bool) -> None:
    late = [one for one in processes if not one["followed"]]
    if as_json:
        print_json({"pool": name, "paused": is_paused, "processes": processes})
    else:
        paused = sum(one["paused"] for one in processes)
        what = f"pool {name}" if name != "*" else "all pools"
        print_line(f"{what}: {'paused' if is_paused else 'resumed'}; {_told(paused, len(processes))}")
        for one in late:
            print_line(f"not yet: process {one['pid']} on {one['host']}, pool {one['pool']}")
    if late:
        raise typer.Exit(ExitCode.UNEXPECTED)


def _told(paused: int, processes: int) -> str:
    if not processes:
        return "no process is running"
    return f"{paused} of {processes} process{'' if processes == 1 else 'es'} paused"
