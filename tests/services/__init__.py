"""Private brokers and stores for demos, tests, benchmarks and chaos: loopback only, nothing left behind."""
