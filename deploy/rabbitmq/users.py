#!/usr/bin/env python3
"""Makes the broker users of users.json, each with the rights of its job and no more. Needs Python 3 and nothing else.

    users.py --management http://admin:password@broker:15672 --vhost cim --passwords /run/secrets/broker
    users.py … --publisher recorder --publisher survey --subscriber crm

PASSWORDS is a folder with one file per user, named like the user, whose first line is the password; a user without a
file is left out and named. Run it again at any time: passwords and rights become those of the files.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

USERS = Path(__file__).with_name("users.json")
_SECONDS = 10.0


def main() -> int:
    """Make the users; the exit code is 1 when the broker refuses one, or when none has a password."""
    options = _options()
    api = _Api(options.management)
    wanted = [*json.loads(USERS.read_text()), *_named(options)]
    made = 0
    try:
        api.put(f"/vhosts/{quote(options.vhost, safe='')}", {})
        for user in wanted:
            file = options.passwords / user["name"]
            if not file.is_file():
                print(f"{user['name']}: no file {file}, left out", file=sys.stderr)
                continue
            _make(api, options.vhost, user, file.read_text().partition("\n")[0])
            print(f"{user['name']}: {user['job']}")
            made += 1
    except (OSError, urllib.error.HTTPError) as error:
        print(f"the management API refused it: {error}", file=sys.stderr)
        return 1
    return 0 if made else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--management", required=True, help="http://admin:password@host:15672, or a file that holds it")
    parser.add_argument("--vhost", default="cim", help="virtual host, made if it is missing (default: cim)")
    parser.add_argument("--passwords", required=True, type=Path, help="folder with a file per user")
    parser.add_argument("--publisher", action="append", default=[], help="also a publisher of this name")
    parser.add_argument("--subscriber", action="append", default=[], help="also a subscriber with queues NAME.…")
    return parser.parse_args()


def _named(options: argparse.Namespace) -> list[dict[str, str]]:
    """Return the users asked for by name, each made from the one in users.json that does the same."""
    by_name = {one["name"]: one for one in json.loads(USERS.read_text())}
    publishers = [{**by_name["cim-publisher"], "name": name} for name in options.publisher]
    subscriber = by_name["crm"]
    return publishers + [
        {**subscriber, "name": name, **{right: subscriber[right].replace("crm", name) for right in RIGHTS}}
        for name in options.subscriber
    ]


RIGHTS = ("configure", "write", "read")


def _make(api: _Api, vhost: str, user: dict[str, str], password: str) -> None:
    name = quote(user["name"], safe="")
    api.put(f"/users/{name}", {"password": password, "tags": user["tags"]})
    api.put(f"/permissions/{quote(vhost, safe='')}/{name}", {right: user[right] for right in RIGHTS})


class _Api:
    def __init__(self, url: str) -> None:
        text = Path(url).read_text().strip() if not url.startswith("http") else url
        parts = urlsplit(text)
        credentials = f"{unquote(parts.username or 'guest')}:{unquote(parts.password or 'guest')}"
        self._authorization = "Basic " + base64.b64encode(credentials.encode()).decode()
        self._base = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/api"

    def put(self, path: str, body: object) -> None:
        request = urllib.request.Request(self._base + path, json.dumps(body).encode(), method="PUT")
        request.add_header("Authorization", self._authorization)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=_SECONDS):
            pass


if __name__ == "__main__":
    sys.exit(main())
