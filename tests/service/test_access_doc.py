"""The generated parts of `docs/security.md` are what the code says. Run this file as a script to write them anew."""

from __future__ import annotations

import pytest
from access_tables import MEANINGS, PAGE, endpoints_table, part, roles_table

from failover_orch.domain import Operation

PARTS = {"roles": roles_table, "endpoints": endpoints_table}


def test_every_operation_is_explained() -> None:
    assert set(MEANINGS) == set(Operation)


@pytest.mark.parametrize("name", PARTS)
def test_the_page_says_what_the_code_says(name: str) -> None:
    written = part(name)[1].strip()
    assert written == PARTS[name](), "run `python tests/service/test_access_doc.py` to write it anew"


if __name__ == "__main__":
    for name, table in PARTS.items():
        before, _, after = part(name)
        PAGE.write_text(f"{before}\n{table()}\n\n{after}", encoding="utf-8")
