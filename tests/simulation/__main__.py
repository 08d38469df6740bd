"""`python -m simulation`: seeds by the thousand, one seed told in full, or the deliberate defects."""

from __future__ import annotations

import argparse
import sys
import time

from simulation.defects import DEFECTS, MOST_SEEDS, caught, write_table
from simulation.running import Failure, narrative, quietly, run_seeds, shrink
from simulation.schedule import Schedule, draw


def main() -> int:
    arguments = _arguments()
    quietly()
    if arguments.command == "defects":
        return _defects(arguments)
    if arguments.seed is not None:
        return _one(arguments.seed, narrate=arguments.narrate)
    return _many(arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["seeds", "defects"], default="seeds")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first of them")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--narrate", action="store_true", help="tell what happens under it")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--only", default="", help="of the defects: those whose name holds this")
    return parser.parse_args()


def _many(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    for done, (seed, failure) in enumerate(run_seeds(seeds, jobs=arguments.jobs), 1):
        if failure is not None:
            _show(draw(seed), failure)
            return 1
        if done % 1_000 == 0 or done == arguments.seeds:
            seconds = time.monotonic() - began
            print(f"{done} of {arguments.seeds} seeds, no violation, {seconds:.0f} s", flush=True)  # noqa: T201 (output)
    return 0


def _one(seed: int, *, narrate: bool) -> int:
    schedule = draw(seed)
    failure = next(iter(run_seeds([seed])))[1]
    if narrate:
        _tell(schedule)
    elif failure is not None:
        _show(schedule, failure)
    else:
        print(f"seed {seed}: everything held")  # noqa: T201 (output)
    return 0 if failure is None else 1


def _show(schedule: Schedule, failure: Failure) -> None:
    print(f"seed {failure.seed}: {failure.what}\n\nthe least that it takes:\n")  # noqa: T201 (output)
    _tell(shrink(schedule, failure))
    print(f"\nrepeat with: PYTHONPATH=tests python -m simulation --seed {failure.seed}")  # noqa: T201 (output)


def _tell(schedule: Schedule) -> None:
    vms = ", ".join(f"{vm.vm_id} at {vm.primary}" + (" (deaf)" if vm.deaf else "") for vm in schedule.vms)
    print(f"{schedule.partitions} partitions; {vms}")  # noqa: T201 (output)
    for group in schedule.plan.groups if schedule.plan else ():
        print(f"plan: {group}")  # noqa: T201 (output)
    for policy in schedule.policies:
        stated = {name: value for name in policy.__slots__ if (value := getattr(policy, name)) not in (None, "", 0)}
        print(f"policy: {stated}")  # noqa: T201 (output)
    for happening in schedule.happenings:
        print(f"scheduled: {happening}")  # noqa: T201 (output)
    print()  # noqa: T201 (output)
    print("\n".join(narrative(schedule)))  # noqa: T201 (output)


def _defects(arguments: argparse.Namespace) -> int:
    found = []
    for defect in DEFECTS:
        if arguments.only in defect.name:
            result = caught(defect, jobs=arguments.jobs)
            found.append(result)
            by = f"{result.invariant} at seed {result.seed}" if result.seed is not None else "nothing"
            print(f"{defect.name}: caught by {by} after {result.tried} seeds", flush=True)  # noqa: T201 (output)
    if not arguments.only:
        write_table(found)
    missed = [result.defect.name for result in found if result.seed is None]
    if missed:
        print(f"not caught within {MOST_SEEDS} seeds: {', '.join(missed)}")  # noqa: T201 (output)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
