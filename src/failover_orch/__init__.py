"""A replica broker for virtual machines, on Kafka: see `docs/architecture.md`."""
