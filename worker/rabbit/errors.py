"""What can go wrong with the broker, in our words, each with its `Failure`. pika's exceptions stop at this package."""

# ruff: noqa: N818 - what happened is a better name than what happened plus Error

from __future__ import annotations

from typing import ClassVar

from worker.codes import Code
from worker.failure import AdapterError, Dependency, Failure


class BrokerError(AdapterError):
    """Root of everything the broker adapter raises.

    Its text is the broker's own reason, which holds no secret, without a full stop: what to do follows it.
    """

    code: ClassVar[Code] = Code.BROKER_UNAVAILABLE

    def __init__(self, text: str, *, code: Code | None = None, number: int | None = None) -> None:
        failure = Failure.of(code or self.code, type(self).__name__, number=number, dependency=Dependency.BROKER)
        super().__init__(failure)
        self.text = text.rstrip(".")

    def __str__(self) -> str:
        """Return what the broker said."""
        return self.text

    @property
    def explained(self) -> str:
        """What the broker said and, where that is known, what to do."""
        return self.text


class BrokerUnreachable(BrokerError):
    """No connection could be opened: refused, timed out, name not found, TLS not accepted."""


class AccessRefused(BrokerError):
    """The broker refused the credentials, the virtual host or an operation: an operator has to act."""

    code = Code.BROKER_ACCESS_REFUSED


class ConnectionLost(BrokerError):
    """An open connection ended: network, heartbeat, broker stop. Effects not confirmed by then are unknown."""


class ChannelClosed(BrokerError):
    """The broker closed the AMQP channel.

    Args:
        reply_code: the AMQP reply code, for example 404 or 406.
        reply_text: the broker's reply text.
    """

    def __init__(self, reply_code: int, reply_text: str) -> None:
        super().__init__(f"{reply_code} {reply_text}", code=_BY_REPLY_CODE.get(reply_code), number=reply_code)
        self.reply_code = reply_code
        self.reply_text = reply_text

    @property
    def explained(self) -> str:
        """What the broker said; and how to create what is missing on it."""
        return f"{self.text}; run `cim-worker topology apply`" if self.reply_code == NOT_FOUND else self.text


class ConfirmTimeout(BrokerError):
    """The broker did not confirm a publish in time; its effect is unknown."""


class BrokerSilent(BrokerError):
    """Connections stand and publishes are in hand, but the broker does nothing: it is frozen, or has no quorum."""


class NodeSilent(BrokerError):
    """A node of a cluster answers nothing and takes no connection: it is frozen, or cut off from us."""

    def __init__(self, at: str) -> None:
        super().__init__(f"{at} answers nothing and takes no connection; others are tried")


class PublisherBlocked(BrokerError):
    """The broker has taken no publishes for so long that what is in hand goes back to it."""

    code = Code.BROKER_BLOCKED


class TopologyMismatch(BrokerError):
    """Something is missing on the broker, or has other arguments than ours."""

    code = Code.TOPOLOGY_MISMATCH


ACCESS_REFUSED, NOT_FOUND, RESOURCE_LOCKED, PRECONDITION_FAILED, VHOST_NOT_ALLOWED = 403, 404, 405, 406, 530
_BY_REPLY_CODE = {
    ACCESS_REFUSED: Code.BROKER_ACCESS_REFUSED,
    VHOST_NOT_ALLOWED: Code.BROKER_ACCESS_REFUSED,
    NOT_FOUND: Code.TOPOLOGY_MISMATCH,
    PRECONDITION_FAILED: Code.TOPOLOGY_MISMATCH,
}
