"""The one filter language of all commands and of the page: from words to a query and a test of payloads. No I/O."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from worker.codes import Code
from worker.dead_letters.letter import Status
from worker.desk.errors import usage
from worker.desk.paths import Path, parse_path, value_at
from worker.desk.times import read_time, utc

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.desk.ports import Query

FIELDS: Final = {
    "code": "code",
    "sender": "senderId",
    "user": "userId",
    "conversation": "conversationId",
    "customer": "customerId",
    "message": "messageId",
    "group": "fingerprint",
}
"""Names of the language, and the letter's field each of them means."""
NAMES: Final = (*FIELDS, "since", "until", "status", "where")
ANY: Final = "any"
_CONDITION: Final = re.compile(r"(?P<path>[^=!]+)(?P<operator>!?=)(?P<value>.*)", re.DOTALL)
_ABSENT: Final = object()


class Condition(NamedTuple):
    """What a value in the payload must be."""

    path: Path
    equal: bool
    value: Any
    """A JSON value; a text matches also a number or a boolean that is written like it."""
    text: str
    """As it was written."""

    def holds(self, document: object) -> bool:
        """Tell whether it holds for a message."""
        found = value_at(document, self.path, _ABSENT)
        same = found is not _ABSENT and (found == self.value or _written(found) == self.text.partition("=")[2])
        return same is self.equal


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters are meant."""

    equal: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Names of `FIELDS` with the values that will do."""
    letters: tuple[str, ...] = ()
    """Ids of single letters; empty: all of them."""
    since: int | None = None
    until: int | None = None
    status: tuple[str, ...] = (Status.OPEN.value,)
    """Empty: any."""
    where: tuple[Condition, ...] = ()

    def query(self) -> Query:
        """Return the query for what the store can tell; `matches` tells the rest."""
        query: Query = {}
        if self.letters:
            query["_id"] = _one_or_many(self.letters)
        for name, values in self.equal:
            query[FIELDS[name]] = _one_or_many(values)
        seen = {"$gte": self.since, "$lt": self.until}
        bounds = {operator: at for operator, at in seen.items() if at is not None}
        if bounds:
            query["lastSeen"] = bounds
        if self.status:
            query["status"] = _one_or_many(self.status)
        return query

    def matches(self, body: bytes) -> bool:
        """Tell whether the conditions about the payload hold; a body that is no JSON meets none."""
        if not self.where:
            return True
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return False
        return all(condition.holds(document) for condition in self.where)

    def of_status(self, *status: Status) -> Filter:
        """Return the same filter for letters of other statuses."""
        return replace(self, status=tuple(one.value for one in status))

    @property
    def is_open(self) -> bool:
        """Whether it names open letters and no others: what can be changed and sent."""
        return self.status == (Status.OPEN.value,)

    def to_be(self, done: str) -> Filter:
        """Return the same filter when all it names are open letters. Raises `DeskError`: no others can be *done*."""
        if self.is_open:
            return self
        text = f"only open letters can be {done}: leave --status={','.join(self.status) or ANY} out"
        raise usage(f"{text}, or open letters of another status again with `restore` first")

    def words(self) -> list[str]:
        """Return it as the words of a command line, with times resolved."""
        words = [*self.letters]
        words += [f"--{name}={value}" for name, values in self.equal for value in values]
        words += [
            f"--{name}={utc(at)}" for name, at in (("since", self.since), ("until", self.until)) if at is not None
        ]
        words += [f"--where={condition.text}" for condition in self.where]
        if self.status != (Status.OPEN.value,):
            words.append(f"--status={','.join(self.status) or ANY}")
        return words

    @property
    def none_found(self) -> str:
        """One sentence for when it names no letter; a code that this version does not know may be misspelt."""
        codes = [code for name, values in self.equal if name == "code" for code in values]
        known = [one.value for one in Code]
        unknown = [f"no code {code!r} is known here{_similar(code, known)}" for code in codes if code not in known]
        return "; ".join([f"no letters: {self}", *unknown])

    def __str__(self) -> str:
        return shlex.join(self.words()) or "all open letters"


def parse_filter(words: Mapping[str, str | Sequence[str] | None], *, now: int) -> Filter:
    """Return the filter of *words*, by the names in `NAMES`; None and empty ones are left out. *now* in epoch ms.

    `group` must be whole fingerprints: `query.resolve` finds them by their beginning. Raises `DeskError`.
    """
    given = {name: _texts(value) for name, value in words.items() if value}
    for name in given:
        if name not in NAMES:
            raise usage(f"there is no filter {name!r}{_similar(name, NAMES)}; there are {', '.join(NAMES)}")
    since, until = (_single_time(given.get(name, ()), name, now) for name in ("since", "until"))
    if since is not None and until is not None and since >= until:
        raise usage("--since is not before --until; exchange them")
    return Filter(
        equal=tuple((name, given[name]) for name in FIELDS if name in given),
        since=since,
        until=until,
        status=_statuses(given.get("status", (Status.OPEN.value,))),
        where=tuple(map(_condition, given.get("where", ()))),
    )


def parse_time(text: str, *, now: int, name: str = "time") -> int:
    """Return epoch ms of what `times.read_time` reads. Raises `DeskError`."""
    try:
        return read_time(text, now)
    except ValueError as error:
        raise usage(f"{name}: {error}") from None


def _single_time(texts: Sequence[str], name: str, now: int) -> int | None:
    return parse_time(texts[-1], now=now, name=f"--{name}") if texts else None


def _texts(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _statuses(texts: Sequence[str]) -> tuple[str, ...]:
    wanted = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    if ANY in wanted:
        return ()
    known = [status.value for status in Status]
    for one in wanted:
        if one not in known:
            raise usage(f"there is no status {one!r}{_similar(one, known)}; there are {', '.join(known)} and {ANY}")
    return tuple(wanted)


def _condition(text: str) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise usage(f"--where {text!r} says nothing; write a field of the message and a value: body.type=FORM_DATA")
    return Condition(parse_path(match["path"].strip()), match["operator"] == "=", _value(match["value"]), text)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _one_or_many(values: Sequence[str]) -> object:
    return values[0] if len(values) == 1 else {"$in": list(values)}


def _similar(name: str, known: Sequence[str]) -> str:
    alike = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {alike[0]!r}" if alike else ""
