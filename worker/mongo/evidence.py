"""Whose fault it is, told by what became of the neighbours: a list of numbers cannot know every way of being sick.

| A document failed with | and of the same call | it is |
|---|---|---|
| a number listed as the document's own | whatever | the document's, at once |
| a number listed as the store's | none was newly stored | the store's |
| a number nobody listed | none was newly stored, nor by a call just before, and others failed like it | the store's |
| a number nobody listed | it was alone, or the others have answers of their own | unproven |
| any of the store's or nobody's | another was newly stored | unproven |

Only a new document proves that the store can write: it finds a key taken with its disk full, too. No I/O.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from worker.codes import Disposition
from worker.failure import Failure
from worker.mongo.errors import all_alike

if TYPE_CHECKING:
    from collections.abc import Sequence


class Inserted(Enum):
    """What the server said about one document it did not refuse."""

    NEW = "new"
    KEY_TAKEN = "key_taken"
    """A unique index already holds its key; which one, only reading back can tell (not every server says)."""


InsertResult = Inserted | Failure
"""What became of one document."""


def is_own(failure: Failure) -> bool:
    """Tell whether *failure*, said of one document, is that document's own for good."""
    return failure.failure_class.disposition is Disposition.DEAD


def against_the_store(results: Sequence[InsertResult], *, just_stored: bool = False) -> Failure | None:
    """Return the store's failure that the *results* of one call prove, or None: then each result stands for itself.

    *just_stored* says that another call has newly stored something a moment ago.
    """
    doubtful = [result for result in results if isinstance(result, Failure) and not is_own(result)]
    if not doubtful or Inserted.NEW in results:
        return None
    listed = next((failure for failure in doubtful if failure.dependency is not None), None)
    if listed is not None:
        return listed
    return all_alike(doubtful[0]) if len(doubtful) > 1 and not just_stored else None
