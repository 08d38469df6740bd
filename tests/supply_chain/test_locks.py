"""The lock files: each rule broken once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from supply_chain import locks
from supply_chain.__main__ import check_locks

SHA = "--hash=sha256:" + "0" * 64
GOOD = f"alpha==1.0 \\\n    {SHA} \\\n    {SHA.replace('0', '1')}\nbeta==2.0 ; python_version >= '3' \\\n    {SHA}\n"
INSTALLED: Mapping[str, Sequence[str]] = {
    "alpha": ["beta>=2", "gamma ; extra == 'more'", "delta ; python_version < '3'"],
    "beta": [],
}
VERSIONS = {"alpha": "1.0", "beta": "2.0"}


def told(
    tmp_path: Path, text: str = GOOD, asked: str = "alpha", versions: Mapping[str, str] = VERSIONS
) -> tuple[list[str], list[str]]:
    path = tmp_path / "requirements.lock"
    path.write_text(text)
    entries, wrong = locks.read_lock(path)
    return wrong, list(locks.findings(path.name, entries, [Requirement(asked)], versions, INSTALLED))


def test_a_lock_in_step_has_no_findings(tmp_path: Path) -> None:
    assert told(tmp_path) == ([], [])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("alpha==1.0\n", "L1 requirements.lock:1: alpha lacks its SHA-256 hashes"),
        (f"# said\nalpha==1.0 {SHA[:-1]}\n", "L1 requirements.lock:2: alpha lacks its SHA-256 hashes"),
        ("alpha==1.0 --hash=md5:" + "0" * 32 + f" {SHA}\n", "L1 requirements.lock:1: alpha lacks its SHA-256"),
        (f"alpha>=1.0 {SHA}\n", "L1 requirements.lock:1: alpha>=1.0 is not pinned"),
        (f"alpha==1.* {SHA}\n", "L1 requirements.lock:1: alpha==1.* is not pinned"),
        (f"alpha @ https://elsewhere.example/alpha.whl {SHA}\n", "L1 requirements.lock:1: alpha @ https://elsewhere"),
        ("--extra-index-url https://elsewhere.example\n", "L1 requirements.lock:1: '--extra-index-url"),
        ("-e ../alpha\n", "L1 requirements.lock:1: '-e ../alpha' is no package with a version"),
    ],
)
def test_an_entry_that_is_not_pinned_and_hashed(tmp_path: Path, text: str, sentence: str) -> None:
    wrong, _ = told(tmp_path, text)
    assert len(wrong) == 1
    assert wrong[0].startswith(sentence)


@pytest.mark.parametrize(
    ("asked", "versions", "sentence"),
    [
        ("omega", VERSIONS, "L2 requirements.lock lacks omega"),
        ("alpha>=1.1", VERSIONS, "L2 requirements.lock:1: alpha 1.0 is not alpha>=1.1"),
        ("alpha[more]", VERSIONS, "L3 requirements.lock lacks gamma"),
        ("alpha", {"alpha": "1.0", "beta": "2.1"}, "L4 beta is 2.1 installed, and 2.0 in requirements.lock"),
        ("alpha", {"beta": "2.0"}, "L4 alpha is not installed, and 1.0 in requirements.lock"),
    ],
)
def test_a_lock_out_of_step(tmp_path: Path, asked: str, versions: Mapping[str, str], sentence: str) -> None:
    wrong, found = told(tmp_path, asked=asked, versions=versions)
    assert wrong == []
    assert len(found) == 1
    assert found[0].startswith(sentence)


def test_what_is_needed_of_what_is_needed_must_be_in_a_version_that_fits(tmp_path: Path) -> None:
    _, found = told(tmp_path, GOOD.replace("beta==2.0", "beta==1.9"))
    assert [finding[:46] for finding in found] == ["L3 requirements.lock:4: beta 1.9 is not beta>="]


def test_the_two_locks_must_agree(tmp_path: Path) -> None:
    shipped, development = tmp_path / "requirements.lock", tmp_path / "requirements-dev.lock"
    shipped.write_text(GOOD)
    for text, says in (
        (GOOD, ""),
        (GOOD.replace("alpha==1.0", "alpha==1.1"), "has 1.1"),
        (GOOD.replace("0000", "2222"), "or other hashes of it"),
        (GOOD[GOOD.index("beta") :], "lacks it"),
    ):
        development.write_text(text)
        found = list(locks.between(locks.read_lock(shipped)[0], locks.read_lock(development)[0]))
        assert says in " ".join(found)
        assert bool(found) is bool(says)


def test_what_is_imported_has_to_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(
        "import json, alpha.part\nfrom beta import x\nfrom . import y\nimport neighbour\n"
    )
    (tmp_path / "neighbour.py").write_text("from gamma_ import z\n")
    imports = locks.imported(tmp_path)
    assert set(imports) == {"alpha", "beta", "gamma_"}
    providers = {"alpha": ["Alpha"], "beta": ["python-beta"], "gamma_": ["gamma-lib"]}
    found = list(locks.unasked(imports, [Requirement("alpha"), Requirement("python.beta>1")], providers))
    assert found == [
        "L6 neighbour.py imports gamma_, of gamma-lib, which pyproject.toml does not ask for: add it there"
    ]


def test_this_projects_own_locks_are_in_step() -> None:
    assert list(check_locks()) == []
