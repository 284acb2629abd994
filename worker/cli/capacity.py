"""`cim-worker capacity`: what a queue does under an arrival curve, with the autoscaler's settings."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import add_command, counted, print_json, print_line, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.flow.capacity import Moment, Point

_ROWS = 20
_MINUTE = 60
_DAY = 86_400
_MOST = 10**9


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "capacity",
        capacity,
        "cim-worker capacity --arrivals 0:500,60:12000,300:12000,360:500",
        "cim-worker capacity --arrivals 0:300 --waiting 2000000 --max-pods 4",
        "cim-worker capacity --arrivals 0:9000 --per-pod 2500 --max-age 30 --json",
    )


def capacity(  # noqa: PLR0917 - typer gives each by its name
    arrivals: Annotated[
        str,
        typer.Option(help="Curve of arrivals, SECOND:PER_SECOND,…; straight lines between, level before and after."),
    ],
    per_pod: Annotated[
        float, typer.Option(min=1, help="Messages a second that one pod takes; measure yours with `make bench`.")
    ] = 4000,
    waiting: Annotated[int, typer.Option(min=0, help="Messages that wait at the beginning.")] = 0,
    pods: Annotated[int, typer.Option(min=1, help="Fewest pods: minReplicas.")] = 1,
    max_pods: Annotated[int, typer.Option(min=1, help="Most pods: maxReplicas.")] = 8,
    messages_per_pod: Annotated[
        int, typer.Option(min=1, help="One pod is wanted for each so many that wait: the ScaledObject's value.")
    ] = 20_000,
    start_seconds: Annotated[int, typer.Option(min=0, help="From the decision until a new pod takes messages.")] = 10,
    max_age: Annotated[float, typer.Option(min=1, help="Seconds a message may be old: how many pods would do?")] = 60,
    seconds: Annotated[int | None, typer.Option(min=1, max=_DAY, help="How far to look.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show how many messages wait, and how old the oldest is, for a curve of arrivals and an autoscaler's settings.

    A calculation: needs no broker. It takes pods to be all alike and busy all the time, decisions every fifteen
    seconds, doubling at most up and one a minute down, as the chart has it. A test holds it to a real run.
    """
    from worker.flow.capacity import Scaling, fewest_pods, forecast

    curve = _curve(arrivals)
    span = seconds or max(600, round(curve[-1].second) + 600)
    scaling = Scaling(
        pods=pods, max_pods=max(pods, max_pods), messages_per_pod=messages_per_pod, start_seconds=start_seconds
    )
    moments = forecast(curve, per_pod, scaling, seconds=span, waiting=waiting)
    enough = fewest_pods(curve, per_pod, seconds=span, waiting=waiting, limit=max_age)
    if as_json:
        print_json(_document(moments, enough))
    else:
        _print(moments, enough, max_age)


def _document(moments: Sequence[Moment], enough: int | None) -> dict[str, object]:
    return {
        "most_waiting": round(max(moment.waiting for moment in moments)),
        "oldest_seconds": round(max(moment.oldest_seconds for moment in moments), 1),
        "most_pods": max(moment.pods for moment in moments),
        "pods_that_would_do": enough,
        "is_empty_at_the_end": moments[-1].waiting < 1,
        "moments": [moment._asdict() for moment in moments],
    }


def _print(moments: Sequence[Moment], enough: int | None, max_age: float) -> None:
    step = max(1, len(moments) // _ROWS)
    rows = [
        (_time(one.second), f"{one.arriving:,.0f}", one.pods, f"{one.waiting:,.0f}", _time(one.oldest_seconds))
        for one in moments[step - 1 :: step]
    ]
    print_table(None, ("at", "arriving/s", "pods", "waiting", "oldest"), rows)
    worst = max(moments, key=lambda moment: moment.oldest_seconds)
    most = max(moment.waiting for moment in moments)
    print_line(f"At most {most:,.0f} wait; the oldest is {_time(worst.oldest_seconds)} old, at {_time(worst.second)}.")
    if moments[-1].waiting >= 1:
        print_line("At the end messages still wait: more pods, or look further with --seconds.")
    wanted = f"keep the oldest below {_time(max_age)}"
    if enough is None:
        print_line(f"No number of pods would {wanted}.")
    else:
        print_line(f"{counted(enough, 'pod')}, always there, would {wanted}.")


def _time(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 2 * _MINUTE else f"{whole // _MINUTE} min {whole % _MINUTE} s"


def _curve(text: str) -> list[Point]:
    """Read `0:500,60:12000`. Raises `CommandError`."""
    from worker.flow.capacity import Point

    try:
        pairs = [part.split(":") for part in text.split(",")]
        points = [Point(float(second), float(rate)) for second, rate in pairs]
    except ValueError:
        points = []
    is_curve = points and all(left.second < right.second for left, right in pairwise(points))
    if not is_curve or any(not (0 <= point.rate <= _MOST and 0 <= point.second <= _DAY) for point in points):
        text = (
            "--arrivals must be SECOND:PER_SECOND,… with growing seconds of one day, and at most "
            f"{_MOST} a second, for example 0:500,60:12000"
        )
        raise CommandError(ExitCode.CONFIGURATION, text)
    return points
