"""Benchmarks, each on a real Apache Kafka and a real worker process: `python -m benchmarks --help`."""
