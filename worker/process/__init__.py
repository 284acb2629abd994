"""One operating system process, from the first signal handler to the exit code."""
