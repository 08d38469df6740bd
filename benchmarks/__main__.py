"""`python -m benchmarks [PART ...] [--scale 0.1] [--runs 3] [--json FILE]`: figures as a Markdown table and JSON."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import orjson

from benchmarks import health_intake, lookups, move_latency, restore
from benchmarks.stage import Result, Stage, machine, summarise
from failover_orch.kafka import LocalKafka

PARTS: Mapping[str, Callable[[LocalKafka, float], Awaitable[list[Result]]]] = {
    "health-intake": health_intake.measure,
    "lookups": lookups.measure,
    "move-latency": move_latency.measure,
    "restore": restore.measure,
}


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--scale", type=float, default=0.1, help="1 is the full size (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="the table shows their medians (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write every run there too")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # topics that are just made have no leader for a moment
    results: list[Result] = []
    with Stage.kafka_for_a_while() as kafka:
        for _ in range(asked.runs):
            for part in asked.parts or PARTS:
                results += asyncio.run(_one(part, kafka, asked.scale))
    summaries = summarise(results)
    print("\n" + ", ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"medians of {asked.runs} runs, scale {asked.scale:g}\n")
    print("| figure | median | unit | runs | guarantee |\n| --- | ---: | --- | --- | --- |")
    for each in summaries:
        runs = ", ".join(f"{value:,.4g}" for value in each.runs)
        print(f"| {each.name} | {each.median:,.4g} | {each.unit} | {runs} | {each.guarantee} |")
    if asked.json:
        report = {"machine": machine(), "scale": asked.scale, "figures": summaries}
        asked.json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))


async def _one(part: str, kafka: LocalKafka, scale: float) -> list[Result]:
    found = await PARTS[part](kafka, scale)
    for result in found:
        print(f"{part}: {result.name}: {result.value:,.4g} {result.unit}", flush=True)
    return found


if __name__ == "__main__":
    main()
