"""Private brokers and stores for trying things out, tests, benchmarks and chaos: one machine, loopback only, nothing left behind."""
