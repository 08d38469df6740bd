"""`python -m failover_orch`: the same as `failover-orch`."""

from failover_orch.cli import main

if __name__ == "__main__":
    main()
