"""Thousands of lookups a second while VMs move, and workers and a service process are killed.

Two service processes answer one client, which remembers the epoch that it was last given for each VM: an answer with a
lower one is wrong.

    python tests/service/test_lookups_under_fire.py --seconds 60 --rate 5000
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from lookup_fire import SITES, Load, running
from workers import say

from failover_orch.config import Settings
from failover_orch.kafka import LocalKafka, create_topics, desired_topics


async def test_no_route_is_older_than_one_given_before_while_workers_and_a_service_are_killed(
    settings: Settings, tmp_path: Path
) -> None:
    load = Load(vms=1_000, rate=1_000, seconds=10, moves_per_second=100)
    with running(settings, tmp_path, load) as installation:
        outcome = await installation.fire()
        say(outcome)
        assert outcome.sound, (outcome.wrong[:10], outcome.unexpected[:10])
        assert outcome.findings.statuses[200] > load.rate * load.seconds / 2


async def _main(load: Load) -> int:
    with tempfile.TemporaryDirectory(prefix="failover-orch-lookups-", ignore_cleanup_errors=True) as directory:
        kafka = LocalKafka(Path(directory) / "kafka", brokers=1)
        try:
            await asyncio.to_thread(kafka.start)
            settings = Settings(bootstrap=kafka.bootstrap, app_id="lookups", topic_prefix="lookups-", partitions=4)
            await create_topics(settings.bootstrap, desired_topics(settings, SITES, 1))
            with running(settings, Path(directory), load) as installation:
                outcome = await installation.fire()
        finally:
            await asyncio.to_thread(kafka.stop, grace_s=0)
    say(f"seed {load.seed}", outcome, *outcome.wrong[:20], *outcome.unexpected[:20])
    say("second, answers, 503 among them, longest ms:")
    for number, second in enumerate(outcome.findings.by_second):
        say(f"{number:4} {second.answers:6} {second.unavailable:6} {second.longest_ms:6.0f}")
    kept_up = outcome.findings.rate >= 0.99 * load.rate
    return 0 if outcome.sound and kept_up and not outcome.withheld_for_nothing else 1


def main() -> int:
    """Run it from the command line; exits 1 where an answer is wrong or unexpected, or the rate not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=5_000, help="lookups a second")
    parser.add_argument("--vms", type=int, default=10_000)
    parser.add_argument("--moves-per-second", type=float, default=200)
    parser.add_argument("--worker-kills", type=int, default=3)
    parser.add_argument("--service-kills", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--forgets", action="store_true", help="the client does not say which epoch it knows")
    given = vars(parser.parse_args())
    forgets = given.pop("forgets")
    return asyncio.run(_main(Load(**given, remembers=not forgets)))


if __name__ == "__main__":
    sys.exit(main())
