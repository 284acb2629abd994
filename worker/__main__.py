"""Makes `python -m worker` the same as `cim-worker`."""

from worker.cli import main

main()
