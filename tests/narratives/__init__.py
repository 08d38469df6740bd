"""Narratives: small stories of what befalls two sites, and what the broker makes of it, in plain sentences.

Each folder holds a story (`story.txt`) and its golden log (`expected.log`). The real rules run, on the world of
`tests/domain`. `python -m narratives` (with `tests/` on the path) tells stories and writes their logs; see README.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).parent

# The simulator is the domain tests' own: whoever comes here first finds it there.
if (domain := str(FOLDER.parent / "domain")) not in sys.path:
    sys.path.append(domain)
