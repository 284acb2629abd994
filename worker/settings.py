"""The one frozen settings object, read from `CIM_…` environment variables and checked at start.

This is the only module that reads `CIM_…` variables. Every field has a type, a default, its unit in the name or
in the text, and a sentence; `cim-worker settings` and the README table are made from them.
"""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from importlib.util import find_spec
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from worker.addresses import checked_authorities, checked_brokers, checked_url

ENV_PREFIX = "CIM_"
_ALIKE = 0.78
"""How much of a name must agree; CIM_BATCHSIZE, CIM_AMQP_URL and CIM_PREFETCH_COUNT do."""
_MIB = 1024 * 1024
_QUOTE = re.compile("[\"'`\\x00-\\x1f\\x7f]")
"""What a shell or a YAML file left in the value, and control characters, which no sender id can hold."""
_EVENT_NAME = re.compile(r"[A-Za-z0-9_]{1,100}")
_NUMBER = re.compile("[1-9][0-9]{0,8}")
_MAX_TIER_SECONDS = 4_294_967
"""The longest a queue can keep messages (`x-message-ttl`): some 49 days."""
_ANOTHER_ENTRY = re.compile("=[^=]")
"""Inside a list of senders: the next entry after a wrong separator. At the end of an id it is padding."""
_RESERVED = """/ \\ . " $ * < > : | ?"""
_NOT_IN_DATABASE = re.compile(r"""[\s\x00-\x1f\x7f/\\."$*<>:|?\ud800-\udfff]""")
_MAX_DATABASE_BYTES = 63
_OF_THE_SERVER = frozenset({"admin", "config", "local"})
_RENAMED = {
    "CIM_HEALTH_PORT": "CIM_HTTP_PORT (one port for the whole pool, with /livez, /readyz and /metrics)",
    "CIM_HEALTH_HOST": "CIM_HTTP_HOST",
}
"""Settings of earlier versions: whoever still sets one would miss what it was for."""


class ConfigurationError(Exception):
    """A setting is missing or wrong. The text names the variable and what to do, and never the value of a secret."""


class Settings(BaseSettings):
    """All there is to configure. Durations are in the unit their name ends with."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,  # deployment templates leave variables empty that nobody set
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    rabbitmq_url: SecretStr = Field(
        default=SecretStr("amqp://guest:guest@localhost:5672/"),
        description="Broker address, amqp:// or amqps://, with user, password and virtual host. Several,"
        " comma separated, are the nodes of one cluster.",
    )
    rabbitmq_ca_file: str | None = Field(
        default=None, description="PEM file with the authorities to trust for amqps:// (default: the system's)."
    )
    rabbitmq_management_url: SecretStr | None = Field(
        default=None,
        description="Management API of the broker, http://user:password@host:15672, its user tagged monitoring; "
        "shows bindings and policies to `topology check` and at start (default: not checked).",
    )
    rabbitmq_heartbeat_seconds: int = Field(
        default=20,
        ge=2,
        le=300,
        description="AMQP heartbeat; a broker that stops answering is noticed after about this time.",
    )
    mongodb_uri: SecretStr = Field(
        default=SecretStr("mongodb://localhost:27017/"), description="Store address, mongodb:// or mongodb+srv://."
    )
    mongodb_database: str = Field(
        default="conversation-manager_db",
        description="Database name: at most 63 bytes, without blanks, dots and the like.",
    )
    mongodb_ca_file: str | None = Field(
        default=None, description="PEM file with the authorities to trust for MongoDB over TLS (default: the system's)."
    )
    mongodb_timeout_ms: int = Field(
        default=10_000,
        ge=100,
        le=300_000,
        description="Maximum time one store operation may take, all attempts included.",
    )

    batch_size: int = Field(default=200, ge=1, le=2000, description="Maximum number of deliveries in one batch.")
    batch_linger_ms: int = Field(
        default=5,
        ge=0,
        le=1000,
        description="Maximum time a delivery waits for its batch to fill while other batches are in progress.",
    )
    batches_in_flight: int = Field(
        default=8, ge=1, le=64, description="Maximum number of batches in progress at once in one process."
    )
    prefetch: int = Field(
        default=2000,
        ge=1,
        le=2000,
        description="Maximum number of unacknowledged deliveries per process (quorum queues allow at most 2000).",
    )
    max_bytes_in_flight: int = Field(
        default=32 * _MIB,
        ge=_MIB,
        description="Maximum bytes of message bodies one process holds; at it, the broker waits until half are done.",
    )
    confirm_timeout_ms: int = Field(
        default=30_000,
        ge=100,
        description="Maximum wait for the broker's confirm; then the result is unknown and the publish is repeated.",
    )
    max_message_bytes: int = Field(
        default=_MIB,
        ge=1024,
        le=15 * _MIB,
        description="Maximum size of a message; larger ones are rejected as message_too_large.",
    )
    registry_cache_ms: int = Field(
        default=10_000,
        ge=0,
        description="How long a process reuses what it read of an active conversation; 0 always asks the store.",
    )
    registry_cache_size: int = Field(
        default=20_000, ge=0, description="Maximum number of conversations one process remembers."
    )

    ingress_order: bool = Field(
        default=False,
        description="Whether activities with one routing key are worked on in their order, one at a time; needs a "
        "partitioned ingress, and the same value for `topology apply`.",
    )

    retry_delays: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("1s", "10s", "1m", "10m"),
        min_length=1,
        description="Delays of the retry tiers, comma separated, each a number with s, m or h; each tier is a queue.",
    )
    max_attempts: int = Field(
        default=5,
        ge=1,
        le=1000,
        description="Attempts per message, the first included; after the last one it is dead-lettered.",
    )
    retries_per_second: int = Field(
        default=200,
        ge=1,
        description="Maximum number of retries a process starts per second, to leave room for live traffic.",
    )
    delivery_limit: int = Field(
        default=20,
        ge=1,
        le=1000,
        description="After this many unacknowledged deliveries the broker itself dead-letters a message. Not below 6: "
        "the first deaths of processes that read a message that kills them count for what was handed out with it.",
    )

    journal: bool = Field(
        default=True, description="Whether this process writes every outcome to the stream cim.outcomes."
    )
    journal_max_bytes: int = Field(
        default=1024 * _MIB,
        ge=_MIB,
        le=1024**5,
        description="Size at which the stream cim.outcomes drops its oldest part.",
    )
    journal_max_days: int = Field(
        default=7, ge=1, le=365, description="Age at which the stream cim.outcomes drops an outcome."
    )
    tracing: bool = Field(
        default=False,
        description="Whether this process exports OpenTelemetry traces, as the standard OTEL_ variables say; "
        "needs the extra otel.",
    )
    receipts: bool = Field(
        default=True,
        description="Whether a publisher that gives a reply_to is told what became of its message.",
    )
    receipt_queues: str = Field(
        default=r"^cim\.receipts\.",
        description="Regular expression of the queues that receipts may go to, besides direct reply-to; ^$: none.",
    )
    conversation_events: bool = Field(
        default=True,
        description="Whether this process updates registry and conversation exchanges from conversation events.",
    )
    conversation_grace_ms: int = Field(
        default=60_000,
        ge=0,
        description="How long the exchange of a closed conversation is kept, unbound, before it is deleted.",
    )
    conversation_expiry: str = Field(
        default="30d",
        description="A conversation of which nothing was heard for this long is closed: a number and s, m, h or d.",
    )
    record_dead_letters: bool = Field(
        default=True,
        description="Whether this process moves dead letters from the queue to the collection dead_letters.",
    )
    record_interval_ms: int = Field(
        default=5_000,
        ge=100,
        description="Pause between two rounds of moving dead letters; between rounds they can be seen in the queue.",
    )
    max_letters: int = Field(
        default=1_000_000,
        ge=1,
        description="At this number of letters in dead_letters nothing more is recorded; letters stay in the queue.",
    )
    letter_retention: str = Field(
        default="30d",
        description="How long a letter is kept once it was discarded or its replay ended: a number and s, m, h or d.",
    )
    max_replays: int = Field(
        default=5,
        ge=1,
        le=1000,
        description="A letter that was replayed this many times in vain is refused, unless forced.",
    )
    read_only: bool = Field(
        default=False, description="Whether `dead-letters` and the desk's page only show letters and change nothing."
    )
    sender_users: Annotated[dict[str, frozenset[str]], NoDecode] = Field(
        default_factory=dict,
        description="Senders each broker user may use: user=sender-1|sender-2,other=sender-3; empty: no check.",
    )
    event_names: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict,
        description="Event names by header.intent: VOICE_RECORDING=MEDIA_RECORDING, comma separated; other intents: "
        "THIRD_PARTY_ACTIVITY.",
    )
    trusted_users: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Broker users besides the worker's own whose cim- headers are believed, comma separated.",
    )

    pool: str = Field(
        default="default",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="Name of the pool this process belongs to: what `pause` and `status` call it.",
    )
    gateway_port: int = Field(default=8080, ge=0, le=65535, description="Port that `cim-worker gateway` listens on.")
    gateway_host: str = Field(
        default="127.0.0.1",
        description="Address the gateway listens on; beyond this machine only with CIM_GATEWAY_TOKENS_FILE or "
        "CIM_GATEWAY_JWKS.",
    )
    gateway_tokens_file: str | None = Field(
        default=None,
        description="File of bearer tokens, a line each: NAME TOKEN [ROLE,ROLE]; read again when it changes.",
    )
    gateway_jwks: str | None = Field(
        default=None, description="Keys that bearer tokens (JWT) are signed with: file or http(s) URL of a JWKS."
    )
    gateway_jwt_issuer: str | None = Field(default=None, description="Issuer (iss) that a JWT must have.")
    gateway_jwt_audience: str | None = Field(default=None, description="Audience (aud) that a JWT must be meant for.")
    gateway_jwt_user_claim: str = Field(default="sub", description="Claim of a JWT that names the user.")
    gateway_jwt_roles_claim: str = Field(
        default="realm_access.roles",
        description="Claim of a JWT that lists roles; a dot steps into an object.",
    )
    gateway_role_senders: Annotated[dict[str, frozenset[str]], NoDecode] = Field(
        default_factory=dict,
        description="Senders that each role may use at the gateway: role=sender-1|sender-2,other=*; empty: every user "
        "may use any sender.",
    )
    gateway_cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Origins whose pages may use the gateway from a browser, comma separated, or *."
    )
    gateway_confirm_timeout_ms: int = Field(
        default=5_000,
        ge=100,
        le=9_000,
        description="Maximum wait of a request for the broker's confirm; then it is answered 503.",
    )
    gateway_max_in_flight: int = Field(
        default=2_000,
        ge=1,
        description="Maximum number of requests that wait for the broker; those beyond are answered 429.",
    )
    gateway_max_connections: int = Field(
        default=2_000, ge=1, description="Maximum number of HTTP connections at once; those beyond are answered 503."
    )

    processes: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Number of worker processes started by `cim-worker run`; auto: one for each processor it may use.",
    )
    drain_grace_ms: int = Field(
        default=25_000, ge=0, description="Maximum time a stopping process takes to finish the deliveries it holds."
    )
    http_port: int = Field(
        default=9464,
        ge=0,
        le=65535,
        description="Port for /livez, /readyz and /metrics of the whole pool; 0 takes any free port.",
    )
    http_host: str = Field(default="127.0.0.1", description="Address that port listens on; in a container 0.0.0.0.")
    desk_port: int = Field(
        default=9465, ge=0, le=65535, description="Port of the desk's page, `cim-worker desk`; 0 takes any free port."
    )
    desk_host: str = Field(
        default="127.0.0.1",
        description="Address the page listens on; another one than loopback needs CIM_DESK_TOKEN_FILE or "
        "CIM_DESK_USER_HEADER.",
    )
    desk_token_file: str | None = Field(
        default=None,
        description="File with one user of the page a line: name, token of at least 20 characters, and `read-only` "
        "for who may only look.",
    )
    desk_user_header: str | None = Field(
        default=None,
        description="Header in which a reverse proxy names the user it has authenticated, such as X-Forwarded-User.",
    )
    desk_trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("127.0.0.1", "::1"),
        description="Addresses or networks, comma separated, from which CIM_DESK_USER_HEADER is believed.",
    )
    log_format: str = Field(
        default="auto",
        pattern="^(auto|console|json)$",
        description="auto, console or json; auto means console on a terminal, json otherwise.",
    )
    log_level: str = Field(
        default="info",
        pattern="^(debug|info|warning|error)$",
        description="Lowest level that is logged: debug, info, warning or error.",
    )

    @field_validator("log_format", "log_level", mode="before")
    @classmethod
    def _in_any_case(cls, value: object) -> object:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("processes", mode="before")
    @classmethod
    def _auto_is_a_number(cls, value: object) -> object:
        if isinstance(value, str) and value.strip().lower() == "auto":
            return usable_processors()
        if isinstance(value, str) and not value.strip().isdecimal():
            msg = "must be a number of processes, or auto"
            raise ValueError(msg)
        return value

    @field_validator("rabbitmq_url")
    @classmethod
    def _amqp_url(cls, value: SecretStr) -> SecretStr:
        return checked_brokers(value)

    @field_validator("rabbitmq_management_url")
    @classmethod
    def _http_url(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else checked_url(value, ("http", "https"))

    @field_validator("gateway_jwks")
    @classmethod
    def _public_keys(cls, value: str | None) -> str | None:
        if value is not None and "@" in urlsplit(value).netloc:
            msg = "the address of public keys has no user and no password; it is shown as it is"
            raise ValueError(msg)
        return value

    @field_validator("mongodb_uri")
    @classmethod
    def _mongodb_uri(cls, value: SecretStr) -> SecretStr:
        return checked_url(value, ("mongodb", "mongodb+srv"))

    @field_validator("mongodb_database")
    @classmethod
    def _database_name(cls, value: str) -> str:
        return _checked_database(value)

    @field_validator("rabbitmq_ca_file", "mongodb_ca_file")
    @classmethod
    def _authorities(cls, value: str | None) -> str | None:
        return None if value is None else checked_authorities(value)

    @field_validator("retry_delays", mode="before")
    @classmethod
    def _split_delays(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("tracing")
    @classmethod
    def _has_its_extra(cls, value: bool) -> bool:  # noqa: FBT001 - pydantic's
        if value and any(find_spec(name) is None for name in ("opentelemetry", "opentelemetry.sdk")):
            msg = "needs the extra otel: pip install '.[otel]' in the clone"
            raise ValueError(msg)
        return value

    @field_validator("receipt_queues")
    @classmethod
    def _regular_expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            msg = f"must be a regular expression: {error}"
            raise ValueError(msg) from None
        return value

    @field_validator("conversation_expiry", "letter_retention")
    @classmethod
    def _known_unit(cls, value: str) -> str:
        delay_seconds(value)
        return value

    @field_validator("retry_delays")
    @classmethod
    def _known_units(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        seconds = [delay_seconds(delay) for delay in value]
        if max(seconds) > _MAX_TIER_SECONDS:
            msg = "a queue can keep messages for 49 days at most"
            raise ValueError(msg)
        if seconds != sorted(set(seconds)):
            msg = "delays must grow from tier to tier, for example 1s,10s,1m,10m"
            raise ValueError(msg)
        return value

    @field_validator("event_names", mode="before")
    @classmethod
    def _split_event_names(cls, value: object) -> object:
        return _parse_event_names(value) if isinstance(value, str) else value

    @field_validator("desk_trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            try:
                ip_network(one, strict=False)
            except ValueError:
                msg = f"must be addresses or networks such as 10.0.0.7 or 10.0.0.0/8, comma separated: not {one!r}"
                raise ValueError(msg) from None
        return value

    @field_validator("trusted_users", "desk_trusted_proxies", "gateway_cors_origins", mode="before")
    @classmethod
    def _split_trusted_users(cls, value: object) -> object:
        return _parse_names(value) if isinstance(value, str) else value

    @field_validator("sender_users", "gateway_role_senders", mode="before")
    @classmethod
    def _split_sender_users(cls, value: object) -> object:
        return _parse_sender_users(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _window_holds_a_batch(self) -> Self:
        if self.prefetch < self.batch_size:
            msg = "CIM_PREFETCH must be at least CIM_BATCH_SIZE, otherwise no batch can fill"
            raise ValueError(msg)
        return self


def delay_seconds(delay: str) -> int:
    """Return the seconds of a delay such as `10s`, `1m`, `2h` or `30d`. Raises ValueError otherwise."""
    number, unit = delay[:-1], delay[-1:]
    factor = {"s": 1, "m": 60, "h": 3600, "d": 86_400}.get(unit)
    if factor is None or _NUMBER.fullmatch(number) is None:
        msg = "a delay is a whole number of at most nine digits and s, m, h or d, for example 10s"
        raise ValueError(msg)
    return int(number) * factor


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment; *overrides* win (for flags and tests).

    Raises `ConfigurationError` with one line for every wrong variable.
    """
    renamed = [f"{old}: is {new} now; rename it" for old, new in _RENAMED.items() if os.environ.get(old)]
    if renamed:
        raise ConfigurationError("\n".join(renamed))
    try:
        return Settings(**{**_secrets_from_files(), **overrides})
    except ValidationError as error:
        raise ConfigurationError("\n".join(_problem_lines(error))) from None


def refreshed(settings: Settings) -> Settings:
    """Return *settings* with the secrets that come from files as they stand there now.

    Raises `ConfigurationError` when one cannot be read or used; then those before go on to hold.
    """
    found = _secrets_from_files()
    if not found:
        return settings
    checked = load_settings(**found)
    return settings.model_copy(update={name: getattr(checked, name) for name in found})


def _secret_files() -> dict[str, str]:
    """Return the variable that names the file of each secret, by setting."""
    secrets = (SecretStr, SecretStr | None)
    names = [name for name, field in Settings.model_fields.items() if field.annotation in secrets]
    return {name: f"{ENV_PREFIX}{name.upper()}_FILE" for name in names}


def _secrets_from_files() -> dict[str, str]:
    found = {}
    for name, variable in _secret_files().items():
        file = os.environ.get(variable)
        if not file:
            continue
        if os.environ.get(ENV_PREFIX + name.upper()):
            raise ConfigurationError(f"{variable}: {ENV_PREFIX}{name.upper()} is set, too; set one of them")
        try:
            found[name] = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or "it is not UTF-8"
            raise ConfigurationError(f"{variable}: the file cannot be read: {reason}") from None
        if not found[name]:
            raise ConfigurationError(f"{variable}: the file is empty")
    return found


def usable_processors() -> int:
    """Return how many processors this process may use, of the machine and of its container's share; at least 1."""
    machine = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        share = int(quota) / int(period)
    except (OSError, ValueError):  # another kind of machine, or "max": no share
        return machine
    return max(1, min(machine, round(share)))


def misspelt_variables() -> dict[str, str]:
    """Return environment variables that nobody reads but that look like one of our settings, each with that setting.

    Names only, never values. Whatever else begins with `CIM_` belongs to other programs and is left alone.
    """
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields} | {*_secret_files().values()}
    found = {}
    for name in sorted(os.environ):
        wanted = name.upper()
        if not wanted.startswith(ENV_PREFIX) or wanted in known:
            continue
        without_worker = wanted.replace("CIM_WORKER_", ENV_PREFIX, 1)
        alike = [without_worker] if without_worker in known else get_close_matches(wanted, known, n=1, cutoff=_ALIKE)
        if alike:
            found[name] = alike[0]
    return found


def _problem_lines(error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors(include_input=False, include_url=False):
        name = ENV_PREFIX + str(item["loc"][0]).upper() if item["loc"] else "settings"
        lines.append(f"{name}: {item['msg'].removeprefix('Value error, ')}")
    return lines


def _checked_database(name: str) -> str:
    if not name or _NOT_IN_DATABASE.search(name) or len(name.encode("utf-8", "surrogatepass")) > _MAX_DATABASE_BYTES:
        msg = f"must be a name of 1 to {_MAX_DATABASE_BYTES} bytes without blanks, control characters and " + _RESERVED
        raise ValueError(msg)
    if name in _OF_THE_SERVER:
        msg = "is a database of the server itself; name another one"
        raise ValueError(msg)
    return name


def _parse_names(text: str) -> tuple[str, ...]:
    names = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(names) or any(map(_QUOTE.search, names)):
        msg = "must be names separated by commas, without quotes and empty parts"
        raise ValueError(msg)
    return tuple(names)


def _parse_sender_users(text: str) -> dict[str, frozenset[str]]:
    """Return the senders of each user. Raises ValueError for whatever could mean a check that is never made."""
    table: dict[str, frozenset[str]] = {}
    for entry in text.split(",") if text.strip() else ():
        user, _, listed = (part.strip() for part in entry.partition("="))
        senders = [sender.strip() for sender in listed.split("|")]
        if not all((user, *senders)) or _QUOTE.search(user + listed) or any(map(_ANOTHER_ENTRY.search, senders)):
            msg = "must be user=sender-1|sender-2,other=sender-3, without quotes and empty parts"
            raise ValueError(msg)
        if user in table:
            msg = "names a user twice; list all of its senders in one entry, separated by |"
            raise ValueError(msg)
        table[user] = frozenset(senders)
    return table


def _parse_event_names(text: str) -> dict[str, str]:
    """Return the event name of each intent. Raises ValueError."""
    table: dict[str, str] = {}
    for entry in text.split(",") if text.strip() else ():
        intent, _, name = (part.strip() for part in entry.partition("="))
        if not intent or not _EVENT_NAME.fullmatch(name):
            msg = "must be INTENT=NAME,OTHER_INTENT=OTHER_NAME; a name has letters, digits and underscores"
            raise ValueError(msg)
        if intent in table:
            msg = "names an intent twice"
            raise ValueError(msg)
        table[intent] = name
    return table
