"""What can go wrong with the broker, in our words. pika's exceptions stop at this package."""

# ruff: noqa: N818 - what happened is a better name than what happened plus Error

from __future__ import annotations


class BrokerError(Exception):
    """Root of everything the broker adapter raises."""


class BrokerUnreachable(BrokerError):
    """No connection could be opened: refused, timed out, name not found, TLS not accepted."""


class AccessRefused(BrokerError):
    """The broker refused the credentials, the virtual host or an operation: an operator has to act."""


class ConnectionLost(BrokerError):
    """An open connection ended: network, heartbeat, broker stop. Effects not confirmed by then are unknown."""


class ChannelClosed(BrokerError):
    """The broker closed the AMQP channel.

    Args:
        code: the AMQP reply code, for example 404 or 406.
        text: the broker's reply text.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


class ConfirmTimeout(BrokerError):
    """The broker did not confirm a publish in time; its effect is unknown."""


class PublishNacked(BrokerError):
    """The broker refused to take responsibility for a publish."""


class Unroutable(BrokerError):
    """A publish that must reach a queue reached none: the topology is broken."""


class TopologyMismatch(BrokerError):
    """Something exists on the broker with other arguments than ours."""
