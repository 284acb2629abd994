"""What operators see of the worker: logs, metrics and health."""
