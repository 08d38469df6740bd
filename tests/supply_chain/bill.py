"""The software bill of materials: what is shipped, and what the local Kafka is made of, as CycloneDX JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from supply_chain.foreign_parts import JARS, jar
from supply_chain.licences import Declared
from supply_chain.locks import Locked

__all__ = ["bill"]

_licences = LicenseFactory()


def bill(product: Declared, locked: Iterable[Locked], licences: Mapping[str, str], jars: Mapping[str, str]) -> str:
    """The bill of a product as CycloneDX 1.6 JSON.

    `licences`: SPDX expressions by package. `jars`: the SHA-256 of each of Kafka's jars, by its file's name; they are
    optional, as is a Kafka on one's own machine.
    """
    made = Bom()
    root = _component(product.name, product.version, product.licence, ComponentType.APPLICATION)
    made.metadata.component = root
    for entry in locked:
        made.components.add(_component(entry.name, entry.version, licences.get(entry.name, "")))
    for file, sha256 in jars.items():
        name, version = jar(file)
        made.components.add(
            Component(
                name=name,
                version=version,
                bom_ref=file,
                scope=ComponentScope.OPTIONAL,
                licenses=[_licences.make_from_string(JARS[name])],
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
                purl=PackageURL("generic", name=name, version=version),
            )
        )
    made.register_dependency(root, made.components)
    return str(JsonV1Dot6(made).output_as_string(indent=2)) + "\n"


def _component(name: str, version: str, licence: str, kind: ComponentType = ComponentType.LIBRARY) -> Component:
    return Component(
        name=name,
        version=version,
        type=kind,
        bom_ref=f"{name}=={version}",
        licenses=[_licences.make_from_string(licence)] if licence else [],
        purl=PackageURL("pypi", name=name, version=version),
    )
