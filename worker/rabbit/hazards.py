"""What AMQP cannot see and would lose messages: bindings that are missing, and policies of operators.

The management API shows both. Without it each row says that it was not checked.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from worker.contract import (
    CONVERSATION_PREFIX,
    DEAD_LETTERS,
    HUB,
    INGRESS,
    PARKED,
    PARTITIONS,
    conversation_exchange,
)
from worker.rabbit import leaders
from worker.rabbit.topology import Exchange, Finding, compare

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from worker.rabbit.management import Management
    from worker.rabbit.topology import Queue, Topology

_APPLY = "run `cim-worker topology apply`"
_NO_MANAGEMENT = "not checked: set CIM_RABBITMQ_MANAGEMENT_URL"
_KINDS = {"exchange": {"all", "exchanges"}, "queue": {"all", "queues", "quorum_queues"}}
_NAMES_SHOWN = 3


def not_checked(topology: Topology) -> list[Finding]:
    """Return the rows that only the management API could fill."""
    names = [f"{exchange} → {queue.name}" for exchange, queue in topology.bindings]
    if topology.partitions:
        names.insert(0, f"{INGRESS} → {PARTITIONS}")
    rows = [Finding("binding", name, unchecked=_NO_MANAGEMENT) for name in names]
    rows.append(Finding("binding", f"{HUB} → {conversation_exchange('…')}", unchecked=_NO_MANAGEMENT))
    rows.append(Finding("leaders", "queues", unchecked=_NO_MANAGEMENT))
    return [*rows, Finding("policies", "all", unchecked=_NO_MANAGEMENT)]


async def hazards(management: Management, topology: Topology) -> list[Finding]:
    """Return a row for each binding, one for the leaders, and one for each policy that would lose messages.

    Raises `ManagementUnavailable`.
    """
    rows = [await _binding(management, exchange, queue.name) for exchange, queue in topology.bindings]
    if topology.partitions:
        rows.append(await _way_in(management))
    rows.append(await _hub_bindings(management))
    harmful = [
        *_of_policies(await management.policies(), topology),
        *_of_policies(await management.operator_policies(), topology),
    ]
    return [*rows, leaders.row(await leaders.look(management)), *(harmful or [Finding("policies", "all")])]


async def compare_unchecked(management: Management, topology: Topology, findings: Iterable[Finding]) -> list[Finding]:
    """Return *findings*, with that compared which AMQP let us not compare. Raises `ManagementUnavailable`."""
    wanted: dict[tuple[str, str], Exchange | Queue] = {("exchange", one.name): one for one in topology.exchanges} | {
        ("queue", one.name): one for one in topology.queues
    }
    rows = []
    for one in findings:
        found = await _found(management, one) if one.unchecked else None
        rows.append(one if found is None else compare(wanted[one.kind, one.name], found))
    return rows


async def _found(management: Management, one: Finding) -> dict[str, Any] | None:
    return await (management.exchange if one.kind == "exchange" else management.queue)(one.name)


async def _binding(management: Management, exchange: str, queue: str) -> Finding:
    name = f"{exchange} → {queue}"
    if await management.bindings(exchange, queue):
        return Finding("binding", name)
    return Finding("binding", name, "missing", _APPLY)


async def _way_in(management: Management) -> Finding:
    """Compare the ways from the ingress exchange: to the partitions, and to nothing else of ours."""
    name = f"{INGRESS} → {PARTITIONS}"
    if PARTITIONS not in await management.bound_to(INGRESS):
        return Finding("binding", name, "missing", _APPLY)
    if await management.bindings(INGRESS, INGRESS):
        return Finding("binding", name, f"the queue {INGRESS} is bound beside it: everything arrives twice", _APPLY)
    return Finding("binding", name)


async def _hub_bindings(management: Management) -> Finding:
    """Compare the conversations' exchanges with what is bound to the hub; one just closed is rightly off it."""
    name = f"{HUB} → {conversation_exchange('…')}"
    exchanges = await management.exchange_names(CONVERSATION_PREFIX)
    unbound = sorted(exchanges - await management.bound_to(HUB))
    if not unbound:
        return Finding("binding", name)
    shown = ", ".join(unbound[:_NAMES_SHOWN]) + (" …" if len(unbound) > _NAMES_SHOWN else "")
    text = f"{len(unbound)} of {len(exchanges)} exchanges are not bound, so their live events are stored: {shown}"
    fix = f"right for conversations that were just closed; for others {_APPLY}, after which workers bind them"
    if len(unbound) == len(exchanges):
        return Finding("binding", name, text, fix)
    return Finding("binding", name, fix=fix, unchecked=text)


def _of_policies(policies: list[dict[str, Any]], topology: Topology) -> Iterator[Finding]:
    for exchange in (HUB, conversation_exchange("any")):
        policy = _effective(policies, "exchange", exchange)
        if "alternate-exchange" in policy.get("definition", {}):
            shown = exchange if exchange == HUB else conversation_exchange("…")
            text = "alternate-exchange takes what nobody listens to, which is then not stored"
            yield _harm("exchange", shown, policy, text)
    for queue in topology.queues:
        policy = _effective(policies, "queue", queue.name)
        for text in _harms(queue, policy.get("definition", {})):
            yield _harm("queue", queue.name, policy, text)


def _harms(queue: Queue, definition: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a policy's *definition* would do to messages of *queue*.

    A length limit alone does no harm: the queue's own overflow refuses the publish, and nobody takes it for done.
    """
    is_letters = queue.name in {DEAD_LETTERS, PARKED}
    overflow = definition.get("overflow")
    if overflow not in {None, "reject-publish"}:
        yield f"overflow {overflow} pushes out the oldest messages when the queue is full"
    ttl, own_ttl = definition.get("message-ttl"), queue.arguments.get("x-message-ttl")
    if ttl is not None and own_ttl is None:
        yield f"message-ttl {ttl} " + ("destroys letters" if is_letters else "turns waiting messages into dead letters")
    elif ttl is not None and ttl < own_ttl:
        yield f"message-ttl {ttl} is shorter than the delay of this tier: retries come too early and are used up"
    if "expires" in definition:
        yield f"expires {definition['expires']} deletes the queue with its messages when nobody uses it"
    limit, own_limit = definition.get("delivery-limit"), queue.arguments.get("x-delivery-limit", -1)
    if limit is not None and limit >= 0 and (own_limit < 0 or limit < own_limit):
        kept = "are destroyed" if is_letters else "are dead"
        yield f"delivery-limit {limit} is lower than ours: messages {kept} after that many hand-outs"


def _harm(kind: str, name: str, policy: Mapping[str, Any], text: str) -> Finding:
    fix = f"change the policy {policy['name']}, or give it a pattern that leaves {name} out"
    return Finding("policy", f"{policy['name']} on {kind} {name}", text, fix)


def _effective(policies: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """Return the policy that is in force: of those that match, the one with the highest priority."""
    matching = [one for one in policies if one.get("apply-to") in _KINDS[kind] and _matches(one["pattern"], name)]
    return max(matching, key=lambda one: one.get("priority", 0), default={})


def _matches(pattern: str, name: str) -> bool:
    """Tell whether a policy's pattern matches; one that only Erlang can read is taken to match."""
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return True
