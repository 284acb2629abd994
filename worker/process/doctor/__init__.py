"""Examines what a worker would find: broker, store and machine, each finding with its fix; `cim-worker doctor`."""
