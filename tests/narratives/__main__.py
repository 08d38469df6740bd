"""`python -m narratives`: tell stories, compare them with their logs, or write these anew."""

from __future__ import annotations

import argparse
import difflib
import sys

from narratives.index import INDEX, index
from narratives.story import StoryError, load, names
from narratives.telling import expected, tell, write


def main() -> int:
    """Tell stories: 0 where every log is as expected."""
    parser = argparse.ArgumentParser(prog="python -m narratives", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="stories; all where none is named")
    parser.add_argument("--write", action="store_true", help="write the logs, and the index in docs/, anew")
    parser.add_argument("--tell", action="store_true", help="print the logs, whatever was expected")
    arguments = parser.parse_args()
    differ = wrong = 0
    for name in arguments.names or names():
        try:
            story = load(name)
            if arguments.write:
                sys.stdout.write(f"{'written ' if write(story) else 'the same'}  {name}\n")
                continue
            log, golden = tell(story), expected(story)
        except StoryError as error:
            wrong += 1
            sys.stderr.write(f"{name}: {error}\n")
            continue
        if arguments.tell:
            sys.stdout.write(f"{story.title}\n\n{log}\n")
        elif log != golden:
            differ += 1
            lines = (golden.splitlines(keepends=True), log.splitlines(keepends=True))
            sys.stdout.writelines(difflib.unified_diff(*lines, f"{name}/expected.log", f"{name}, as told now"))
    if arguments.write and not wrong:
        INDEX.write_text(index())
    if differ:
        sys.stderr.write(f"{differ} stories are told otherwise than expected; `--write` takes them as they are\n")
    return 2 if wrong else min(differ, 1)


if __name__ == "__main__":
    sys.exit(main())
