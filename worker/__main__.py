"""Makes `python -m worker` the same as `cim-worker`."""

from worker.cli import main

if __name__ == "__main__":
    main()
