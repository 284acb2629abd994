"""What is wrong, or will be, on this machine: port, memory, certificates, names of settings."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from worker.addresses import address, hosts, is_local
from worker.process.doctor.finding import Area, Finding
from worker.settings import misspelt_variables
from worker.web.listening import ListenError, listen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import SecretStr

    from worker.settings import Settings

_MACHINE: Final = Area("machine")
_MIB: Final = 1024 * 1024
_AT_REST_MIB: Final = 70
_PER_BYTE: Final = 10
"""A message in hand takes up to this many times its bytes while it is parsed, translated and written."""
_SUPERVISOR_MIB: Final = 60
_SOON_DAYS: Final = 21
_DAY: Final = 86_400
_TIMEOUT_SECONDS: Final = 5.0


async def examine_machine(settings: Settings) -> list[Finding]:
    """Return what was found."""
    return [*_names(), _port(settings), _memory(settings), *_plaintext(settings), *await _certificates(settings)]


def _names() -> Iterator[Finding]:
    for variable, meant in misspelt_variables().items():
        yield _MACHINE.risk(f"variable {variable}", "nobody reads it", f"did you mean {meant}?")


def _port(settings: Settings) -> Finding:
    try:
        listen(settings.http_host, settings.http_port).close()
    except ListenError as error:
        fix = "right while a pool runs here; else set CIM_HTTP_PORT to a free one"
        return _MACHINE.risk("HTTP port", str(error), fix)
    return _MACHINE.ok("HTTP port", f"{settings.http_port} of {settings.http_host} is free")


def _memory(settings: Settings) -> Finding:
    in_hand = settings.max_bytes_in_flight * _PER_BYTE // _MIB
    wanted = _SUPERVISOR_MIB + settings.processes * (_AT_REST_MIB + in_hand)
    there = memory_limit() // _MIB
    largest = min(settings.prefetch, settings.max_bytes_in_flight // settings.max_message_bytes)
    text = (
        f"up to {wanted} MiB at worst: {settings.processes} x ({_AT_REST_MIB} + {in_hand}); {there} MiB are there; "
        f"of the largest messages {largest} fit into one process at once"
    )
    if wanted > there:
        return _MACHINE.risk("memory", text, "lower CIM_MAX_BYTES_IN_FLIGHT or --processes, or give it more memory")
    return _MACHINE.ok("memory", text)


def memory_limit() -> int:
    """Return the bytes of memory this process may use: of its container, else of the machine."""
    text = Path("/proc/meminfo").read_text()
    machine = int(re.search(r"MemTotal:\s+(\d+) kB", text)[1]) * 1024  # type: ignore[index] # the kernel always says so
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # another kind of machine, or "max": no limit
        return machine


def _plaintext(settings: Settings) -> Iterator[Finding]:
    broker, store = settings.rabbitmq_url, settings.mongodb_uri
    readable = [at for at, url in _nodes(broker).items() if url.startswith("amqp:")]
    if readable and not is_local(broker):
        text = f"password and messages travel readable to {', '.join(readable)}"
        yield _MACHINE.risk("TLS of the broker", text, "use amqps:// (deploy/README.md)")
    if not _is_tls(store.get_secret_value()) and not is_local(store):
        text = f"password and documents travel readable to {address(store)}"
        yield _MACHINE.risk("TLS of the store", text, "add tls=true to CIM_MONGODB_URI (deploy/README.md)")
    management = settings.rabbitmq_management_url
    if management is not None and management.get_secret_value().startswith("http:") and not is_local(management):
        text = f"its password travels readable to {address(management)}"
        yield _MACHINE.risk("TLS of the management API", text, "use https:// for CIM_RABBITMQ_MANAGEMENT_URL")


async def _certificates(settings: Settings) -> list[Finding]:
    """Look at the certificate of every node that is spoken to with TLS."""
    broker = {at: url for at, url in _nodes(settings.rabbitmq_url).items() if url.startswith("amqps:")}
    findings = [await _certificate("the broker", at, 5671, settings.rabbitmq_ca_file) for at in broker]
    management = settings.rabbitmq_management_url
    if management is not None and management.get_secret_value().startswith("https:"):
        at = address(management)
        findings.append(await _certificate("the management API", at, 15672, settings.rabbitmq_ca_file))
    uri = settings.mongodb_uri.get_secret_value()
    if _is_tls(uri) and not uri.startswith("mongodb+srv:"):
        nodes = hosts(settings.mongodb_uri)
        findings += [await _certificate("the store", at, 27017, settings.mongodb_ca_file) for at in nodes]
    return findings


def _nodes(broker: SecretStr) -> dict[str, str]:
    """Return the URL of each node of the broker by its address."""
    return dict(zip(hosts(broker), broker.get_secret_value().split(","), strict=True))


def _is_tls(uri: str) -> bool:
    options = urlsplit(uri).query.lower()
    return uri.startswith("mongodb+srv:") or "tls=true" in options or "ssl=true" in options


async def _certificate(whose: str, at: str, default_port: int, ca_file: str | None) -> Finding:
    """Look at the certificate a server shows, with the authorities the worker trusts."""
    host, _, port = at.rpartition(":") if re.search(r":[0-9]+$", at) else (at, "", str(default_port))
    what = f"certificate of {whose} at {at}"
    context = ssl.create_default_context(cafile=ca_file)
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
    except ssl.SSLCertVerificationError as error:
        return _MACHINE.problem(what, error.verify_message, "correct the certificate, or name its authority's PEM file")
    except (OSError, TimeoutError) as error:
        reason = getattr(error, "strerror", None) or "no answer"
        return _MACHINE.problem(what, reason, "start it, or correct its address")
    shown = writer.get_extra_info("peercert")
    writer.close()
    days = int(ssl.cert_time_to_seconds(shown["notAfter"]) - time.time()) // _DAY
    if days < _SOON_DAYS:
        return _MACHINE.risk(what, f"ends in {days} days", "renew it")
    return _MACHINE.ok(what, f"valid for {days} more days")
