"""Cmdlets and their parameters, read from the notation of Microsoft's reference.

    [-VMName] <String[]>            mandatory, and may be given by position
    [[-Name] <String>]              may be given by position
    [-RecoveryHistory <Int32>]      may be given
    -AsTest                         a mandatory switch (in the reference brackets stand around these, too)
    [-Prepare]                      a switch

Beyond the reference's lines, which say these elsewhere: `-Name|VMName` gives an alias, and `(value)` or `(property)`
after the type that the parameter takes its value from the pipeline, by value or by a property of its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Cmdlet", "Parameter", "cmdlet"]

_PARAMETER = re.compile(
    r"""(?P<optional>\[)?
        (?P<positional>\[)? -(?P<names>[\w|]+) (?(positional)\])
        (?:\s<(?P<type>\w+)(?P<many>\[\])?>(?:\s\((?P<pipeline>[\w,\s]+)\))?)?
        (?(optional)\])\s*""",
    re.VERBOSE,
)
_POSITIONAL = re.compile(r"\[-(?P<names>[\w|]+)\]\s<(?P<type>\w+)(?P<many>\[\])?>(?:\s\((?P<pipeline>[\w,\s]+)\))?\s*")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter in one parameter set."""

    name: str
    aliases: tuple[str, ...]
    type: str
    many: bool
    mandatory: bool
    by_value: bool
    by_property: bool


@dataclass(frozen=True, slots=True)
class Cmdlet:
    """A cmdlet: its parameter sets, of which the first is the default where one is, and where it comes from."""

    name: str
    module: str
    sets: Mapping[str, Mapping[str, Parameter]]
    has_default: bool
    changes: bool

    @property
    def command_class(self) -> str:
        """The name of its class, as it stands in the ids of errors."""
        return _CLASSES.get(self.module, "Microsoft.PowerShell.Commands.{}Command").format(self.name.replace("-", ""))

    def named(self, name: str) -> str:
        """The full name of a parameter of this name or alias, in any case; empty if there is none."""
        for parameters in self.sets.values():
            for parameter in parameters.values():
                if name.lower() in (known.lower() for known in (parameter.name, *parameter.aliases)):
                    return parameter.name
        return ""


_CLASSES = {
    "Hyper-V": "Microsoft.HyperV.PowerShell.Commands.{}",
    "FailoverClusters": "Microsoft.FailoverClusters.PowerShell.{}Command",
    "CimCmdlets": "Microsoft.Management.Infrastructure.CimCmdlets.{}Command",
}


def cmdlet(module: str, name: str, *, default: bool = True, changes: bool = False, **sets: str) -> Cmdlet:
    """A cmdlet, its parameter sets given as text. One that changes something can be asked for -WhatIf and -Confirm.

    Raises:
        ValueError: a parameter set cannot be read.

    """
    common = " [-WhatIf|wi] [-Confirm|cf]" if changes else ""
    read = {name: {each.name: each for each in _parameters(text + common)} for name, text in sets.items()}
    return Cmdlet(name, module, read, default, changes)


def _parameters(text: str) -> Iterator[Parameter]:
    rest = " ".join(text.split())
    while rest:
        match = _POSITIONAL.match(rest)
        mandatory = True
        if match is None:
            match = _PARAMETER.match(rest)
            if match is None:
                raise ValueError(f"no parameter: {rest[:60]}")
            mandatory = not match["optional"]
        rest = rest[match.end() :]
        name, *aliases = match["names"].split("|")
        pipeline = (match["pipeline"] or "").replace(" ", "").split(",")
        yield Parameter(
            name,
            tuple(aliases),
            match["type"] or "SwitchParameter",
            bool(match["many"]),
            mandatory,
            "value" in pipeline,
            "property" in pipeline,
        )
