"""Licences: what counts as allowed, and what is a finding."""

from __future__ import annotations

from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest

from supply_chain.__main__ import check_licences
from supply_chain.foreign_parts import debian_findings, jar, jar_findings
from supply_chain.licences import Declared, declared, findings, is_allowed


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("(GPL-3.0-only OR AGPL-3.0-only) AND MIT", False),
        ("GPL-3.0-only OR MIT AND ISC", True),
        ("Apache-2.0 WITH LLVM-exception", False),
        ("", False),
        ("MIT)", False),
        ("(MIT", False),
        ("MIT/GPL", False),
    ],
)
def test_which_expressions_are_met(expression: str, allowed: bool) -> None:
    assert is_allowed(expression) is allowed


class Installed(metadata.Distribution):
    """A package that says what it is told to."""

    def __init__(self, **said: str | list[str]) -> None:
        self._said = Message()
        self._said["Name"], self._said["Version"] = "Some_Package", "1.0"
        for name, values in said.items():
            for value in [values] if isinstance(values, str) else values:
                self._said[name.replace("_", "-")] = value

    def read_text(self, filename: str) -> str | None:
        return self._said.as_string() if filename == "METADATA" else None

    def locate_file(self, path: object) -> Path:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("package", "licence"),
    [
        (Installed(License_Expression="MIT", License="GPL"), "MIT"),
        (Installed(Classifier="License :: OSI Approved :: MIT License", License="see LICENSE"), "MIT"),
        (
            Installed(Classifier=["License :: OSI Approved :: MIT License", "License :: OSI Approved :: GNU GPL"]),
            "MIT AND LicenseRef-gnu gpl",
        ),
        (Installed(License="Apache-2.0"), "Apache-2.0"),
        (Installed(License="Permission is hereby granted"), ""),
        (Installed(), ""),
    ],
)
def test_what_a_package_says_of_itself(package: Installed, licence: str) -> None:
    assert declared(package) == Declared("some-package", "1.0", licence)


def test_what_is_a_finding() -> None:
    exceptions = {"eps": ("LGPL-2.1-only", "why")}
    found = findings(
        [
            Declared("alpha", "1", "MIT"),
            Declared("beta", "1", "AGPL-3.0-only"),
            Declared("gamma", "1", ""),
            Declared("eps", "1", "LGPL-2.1-only"),
            Declared("eps", "2", "GPL-3.0-only"),
        ],
        exceptions,
    )
    assert [finding.partition(":")[0] for finding in found] == [
        "beta 1 is under AGPL-3.0-only, which is not in licences.ALLOWED",
        "gamma 1 does not say its licence",
        "eps 2 is under 'GPL-3.0-only', and was let in with LGPL-2.1-only",
    ]


def test_a_new_jar_needs_a_licence_and_an_old_one_leaves() -> None:
    assert jar("kafka_2.13-4.4.0.jar") == ("kafka_2.13", "4.4.0")
    assert jar("zstd-jni-1.5.7-17.jar") == ("zstd-jni", "1.5.7-17")
    found = list(jar_findings(["new-1.jar", "bad-1.jar"], {"bad": "SSPL-1.0", "old": "MIT"}))
    assert [finding.split(" ")[2] for finding in found] == ["bad", "new", "old"]


def test_a_new_debian_package_needs_a_licence() -> None:
    assert len(list(debian_findings(["bash", "emacs"]))) == 1


def test_everything_that_is_shipped_or_run_is_fine() -> None:
    assert list(check_licences()) == []
