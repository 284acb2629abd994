"""Who did it has a name, also where the user of a container has none."""

from __future__ import annotations

import getpass
import os

import pytest

from worker.desk.audit import system_user


@pytest.mark.parametrize("error", [KeyError("uid not found"), OSError("no username set")])
def test_a_user_without_a_name_is_known_by_number(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert system_user() == f"user {os.getuid()}"
