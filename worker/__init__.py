"""Brings third-party CIM messages from a RabbitMQ queue to their conversation or to the store."""

__version__ = "0.1.0"
