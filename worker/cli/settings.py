"""`cim-worker settings`: every setting with its value, where it comes from, and what it means."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.output import add_command, print_json, print_table
from worker.cli.services import command_settings

if TYPE_CHECKING:
    from worker.settings import Settings

_UNITS = {
    "_ms": "milliseconds",
    "_seconds": "seconds",
    "_bytes": "bytes",
    "_per_second": "per second",
    "bytes_in_flight": "bytes",
    "_delays": "s, m or h",
}


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting as people see it."""

    name: str
    """The environment variable."""
    value: str
    """The effective value; of an address without credentials and options."""
    default: str
    is_default: bool
    unit: str
    description: str
    virtual_host: str | None = None
    """Of the broker's address."""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "settings",
        settings,
        "cim-worker settings",
        "CIM_BATCH_SIZE=500 cim-worker settings --json | jq '.CIM_BATCH_SIZE'",
        "cim-worker settings --markdown        the table of the README",
    )


def settings(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the README's table of defaults.")] = False,
) -> None:
    """Show the effective settings, without credentials. Needs neither broker nor store.

    A wrong setting is named with the reason, and the exit code is 2; a name that only looks like a setting is logged.
    """
    if as_markdown:
        sys.stdout.write(markdown())
        return
    rows = setting_rows(command_settings())
    if as_json:
        print_json({row.name: _as_json(row) for row in rows})
        return
    print_table(None, ("variable", "value", "from", "unit", "what it is"), [_cells(row) for row in rows])


def setting_rows(settings: Settings) -> list[SettingRow]:
    """Return every setting of *settings* in the order of their declaration."""
    from worker.addresses import virtual_host
    from worker.settings import ENV_PREFIX

    rows = []
    for name, field in type(settings).model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        rows.append(
            SettingRow(
                name=ENV_PREFIX + name.upper(),
                value=_shown(getattr(settings, name)),
                default=_shown(default),
                is_default=getattr(settings, name) == default,
                unit=_unit(name),
                description=field.description or "",
                virtual_host=virtual_host(settings.rabbitmq_url) if name == "rabbitmq_url" else None,
            )
        )
    return rows


def markdown() -> str:
    """Return the settings table of the README, made from the defaults alone."""
    from worker.settings import Settings

    rows = setting_rows(Settings.model_construct())
    lines = ["| Variable | Default | Unit | What it is |", "|---|---|---|---|"]
    for row in rows:
        default = f"`{row.default}`" if row.default else ""
        lines.append(f"| `{row.name}` | {default} | {row.unit} | {row.description.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _cells(row: SettingRow) -> tuple[object, ...]:
    value = row.value if row.virtual_host is None else [row.value, f"(virtual host: {row.virtual_host})"]
    return row.name, value, "default" if row.is_default else "environment", row.unit, row.description


def _as_json(row: SettingRow) -> dict[str, Any]:
    return {
        "value": row.value,
        "default": row.default,
        "is_default": row.is_default,
        "unit": row.unit or None,
        "description": row.description,
        **({} if row.virtual_host is None else {"virtual_host": row.virtual_host}),
    }


def _unit(name: str) -> str:
    return next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")


def _shown(value: Any) -> str:
    from pydantic import SecretStr

    from worker.addresses import url_without_credentials

    if isinstance(value, SecretStr):
        return url_without_credentials(value)
    if isinstance(value, dict):
        return ",".join(f"{user}={'|'.join(sorted(senders))}" for user, senders in sorted(value.items()))
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
