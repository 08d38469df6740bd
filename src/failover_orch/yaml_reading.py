"""Files that people write: YAML read by its node tree, so that every mistake has its line.

No value is turned into what nobody wrote.

PyYAML's loader would make `no` a boolean, `00:15:50:10:20:30` a number and keep the last of two equal keys. Here a
value is the text that stands in the file, and what it means is decided by the field it stands in.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar

import yaml

from failover_orch.errors import FileError, Mistake

__all__ = ["IDENTIFIER", "Entry", "Notes", "Pattern", "Register", "did_you_mean", "read_file"]

_Choice = TypeVar("_Choice", bound=StrEnum)
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")

_NULLS = ("", "~", "null", "Null", "NULL")
_INTEGER = re.compile(r"0|[1-9][0-9]{0,8}")
_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,8})(\.[0-9]{1,6})?")
_BOOLEANS = {"true": True, "false": False}
_TAG_OF_NODES: Mapping[type[yaml.Node], str] = {
    yaml.ScalarNode: "tag:yaml.org,2002:str",
    yaml.SequenceNode: "tag:yaml.org,2002:seq",
    yaml.MappingNode: "tag:yaml.org,2002:map",
}


@dataclass(slots=True)
class Notes:
    """The mistakes and warnings found so far."""

    mistakes: list[Mistake] = field(default_factory=list)
    warnings: list[Mistake] = field(default_factory=list)

    def mistake(self, line: int, where: str, message: str) -> None:
        self.mistakes.append(Mistake(line, where, message))

    def warning(self, line: int, where: str, message: str) -> None:
        self.warnings.append(Mistake(line, where, message))


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a text must look like, and how to say so."""

    expression: re.Pattern[str]
    expected: str


IDENTIFIER = Pattern(
    re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}"),
    "up to 80 letters, digits, dots, dashes and underscores, the first a letter or digit",
)
"""Names that become parts of topic names, keys and run ids."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'cluster'?`, or nothing where nothing comes close. Case does not matter."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def _read_text(path: Path, notes: Notes) -> str:
    """What a file holds; empty, with a mistake noted, where it cannot be read or is no text."""
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        notes.mistake(1, "file", f"cannot be read: {error.strerror or error}")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        notes.mistake(line, "file", "is not UTF-8 text; save it as UTF-8")
    return ""


def read_file(
    path: str | Path,
    *,
    keys: Collection[str],
    expected: str,
    make: Callable[[Entry, Notes], _Made | None],
    error: type[FileError],
) -> _Made:
    """What `make` makes of a file's top level, which has these `keys`; None from it where it cannot go on.

    Raises:
        FileError: of the class `error`: the file cannot be read or has mistakes; every one of them is listed.

    """
    notes = Notes()
    text = _read_text(Path(path), notes)
    node = None if notes.mistakes else _compose(text, notes, expected=expected)
    root = None if node is None else Entry(node, "", notes, keys)
    made = None if root is None or root.broken else make(root, notes)
    if made is None or notes.mistakes:
        raise error(str(path), sorted(set(notes.mistakes)))
    return made


def _compose(text: str, notes: Notes, *, expected: str) -> yaml.Node | None:
    """The file's node tree, or None with a mistake noted; `expected` says what a file that is empty should hold."""
    try:
        # BaseLoader: nothing is resolved or constructed, a scalar keeps the text that was written.
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        notes.mistake(mark.line + 1 if mark else 1, "YAML", f"cannot be read: {said}")
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        notes.mistake(line, "YAML", f"cannot be read: the character {chr(error.character)!r} is not allowed here")
    except (ValueError, OverflowError) as error:
        # PyYAML hands on what Python says of "\UFFFFFFFF", and does not say where it stands.
        notes.mistake(1, "YAML", f"cannot be read: an escape or a directive has a number too large ({error})")
    except RecursionError:
        notes.mistake(1, "YAML", "cannot be read: lists or mappings are nested too deeply")
    else:
        if node is None:
            notes.mistake(1, "file", f"is empty; expected {expected}")
        return node
    return None


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _mapping(keys: Collection[str] | Pattern) -> str:
    return "a mapping from names" if isinstance(keys, Pattern) else f"a mapping with {', '.join(keys)}"


def _quoted(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is not None


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode) and not _quoted(node) and node.value in _NULLS:
        return "empty"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "a mapping" if isinstance(node, yaml.MappingNode) else "a text"


class Entry:
    """A mapping of the file, read key by key.

    Every getter notes what is wrong and then returns something of the right type, so that reading goes on and finds
    the next mistake too. `label` is the key whose value names this entry in messages (`vms[erp-db-1].adapters`).
    `keys` are those that it may have; a pattern where the file itself gives them, as names.
    """

    def __init__(
        self, node: yaml.Node, where: str, notes: Notes, keys: Collection[str] | Pattern, line: int | None = None
    ) -> None:
        self.where = where
        self.notes = notes
        self.line = line or _line(node)
        self._values: dict[str, yaml.Node] = {}
        self._key_lines: dict[str, int] = {}
        if not isinstance(node, yaml.MappingNode) or not self._tag_ok(node, where):
            notes.mistake(self.line, where or "file", f"is {_kind(node)}; expected {_mapping(keys)}")
            self.broken = True
            return
        self.broken = False
        for key_node, value in node.value:
            self._take(key_node, value, keys)

    def _take(self, key_node: yaml.Node, value: yaml.Node, keys: Collection[str] | Pattern) -> None:
        line = _line(key_node)
        if not isinstance(key_node, yaml.ScalarNode):
            expected = keys.expected if isinstance(keys, Pattern) else f"one of {', '.join(keys)}"
            self.notes.mistake(line, self.where, f"has {_kind(key_node)} as a key; expected {expected}")
            return
        key = key_node.value if key_node.value.isprintable() else repr(key_node.value)
        if key in self._values:
            first = self._key_lines[key]
            self.notes.mistake(line, self._field(key), f"is given twice; line {first} has it already: keep one")
        elif key == "<<":
            self.notes.mistake(line, self._field(key), "merge keys are not read; write the keys out, or use *aliases")
        elif isinstance(keys, Pattern) and not keys.expression.fullmatch(key):
            self.notes.mistake(line, self._field(key), f"cannot stand here as a name; expected {keys.expected}")
        elif not isinstance(keys, Pattern) and key not in keys:
            hint = did_you_mean(key, keys) or f"; expected one of {', '.join(keys)}"
            self.notes.mistake(line, self._field(key), f"is not a key of this format{hint}")
        else:
            self._values[key] = value
            self._key_lines[key] = line

    def _field(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def _tag_ok(self, node: yaml.Node, where: str) -> bool:
        if node.tag == _TAG_OF_NODES.get(type(node)):
            return True
        self.notes.mistake(_line(node), where, f"has the tag {node.tag!r}; tags are not read: remove it")
        return False

    def has(self, key: str) -> bool:
        """Whether the key stands in the file, whatever its value."""
        return key in self._values

    @property
    def names(self) -> tuple[str, ...]:
        """The keys that the file gives, in its order."""
        return tuple(self._values)

    def line_of(self, key: str) -> int:
        """The line of a key, or of the entry if it has no such key."""
        return self._key_lines.get(key, self.line)

    def mistake(self, key: str, message: str, *, line: int | None = None) -> None:
        """Note a mistake in the value of a key; an empty key means the entry as a whole."""
        self.notes.mistake(line or self.line_of(key), self._field(key) if key else self.where, message)

    def warning(self, key: str, message: str) -> None:
        """Note a warning about the value of a key; an empty key means the entry as a whole."""
        self.notes.warning(self.line_of(key), self._field(key) if key else self.where, message)

    def _missing(self, key: str, expected: str) -> None:
        if not self.broken:
            self.mistake(key, f"is missing; expected {expected}", line=self.line)

    def _scalar(self, node: yaml.Node, where: str, expected: str) -> str | None:
        """The text of a scalar, or None with a mistake noted."""
        if not isinstance(node, yaml.ScalarNode):
            self.notes.mistake(_line(node), where, f"is {_kind(node)}; expected {expected}")
            return None
        if not self._tag_ok(node, where):
            return None
        text = str(node.value)
        if not _quoted(node) and text in _NULLS:
            self.notes.mistake(_line(node), where, f"is empty; expected {expected}, or leave the key out")
            return None
        return text

    def text(self, key: str, *, required: bool = True, pattern: Pattern | None = None, expected: str = "a text") -> str:
        """A text of one line, as written; empty where it is left out or wrong."""
        expected = pattern.expected if pattern else expected
        if key not in self._values:
            if required:
                self._missing(key, expected)
            return ""
        text = self._scalar(self._values[key], self._field(key), expected)
        return "" if text is None else self._checked(self._values[key], self._field(key), text, pattern)

    def _checked(self, node: yaml.Node, where: str, text: str, pattern: Pattern | None) -> str:
        if pattern is not None and not pattern.expression.fullmatch(text):
            self.notes.mistake(_line(node), where, f"is {text!r}; expected {pattern.expected}")
            return ""
        if text != text.strip() or not text or not text.isprintable():
            self.notes.mistake(_line(node), where, f"is {text!r}; expected one line of text without spaces around it")
            return ""
        return text

    def texts(
        self, key: str, *, required: bool = False, pattern: Pattern | None = None, expected: str = "a list"
    ) -> list[tuple[int, str]]:
        """A list of texts, each with its line; those that are wrong are left out."""
        found: list[tuple[int, str]] = []
        for index, node in enumerate(self._items(key, required=required, expected=expected)):
            where = f"{self._field(key)}[{index}]"
            text = self._scalar(node, where, pattern.expected if pattern else "a text")
            checked = "" if text is None else self._checked(node, where, text, pattern)
            if checked:
                found.append((_line(node), checked))
        return found

    def choice(self, key: str, choices: type[_Choice], default: _Choice, *, required: bool = False) -> _Choice:
        """One of an enumeration's values; the default where it is left out or wrong."""
        return choices(self.one_of(key, [choice.value for choice in choices], default.value, required=required))

    def word(self, key: str, choices: type[_Choice], default: _Choice) -> _Choice:
        """As `choice`, where the file has the enumeration's names in lower case."""
        return choices[self.one_of(key, [choice.name.lower() for choice in choices], default.name.lower()).upper()]

    def words(self, key: str, choices: type[_Choice]) -> tuple[_Choice, ...]:
        """A list of such words, each once; those that are wrong are left out."""
        names = [choice.name.lower() for choice in choices]
        found: list[_Choice] = []
        for line, text in self.texts(key, expected=f"a list of {', '.join(names)}"):
            if text not in names:
                expected = f"one of {', '.join(names)}{did_you_mean(text, names)}"
                self.mistake(key, f"is {text!r}; expected {expected}", line=line)
            elif choices[text.upper()] in found:
                self.mistake(key, f"{text} is listed twice; list it once", line=line)
            else:
                found.append(choices[text.upper()])
        return tuple(found)

    def one_of(self, key: str, values: Collection[str], default: str, *, required: bool = False) -> str:
        """One of some values; the default where it is left out or wrong."""
        expected = f"one of {', '.join(values)}"
        text = self.text(key, required=required, expected=expected)
        if text in values:
            return text
        if text:
            self.mistake(key, f"is {text!r}; expected {expected}{did_you_mean(text, values)}")
        return default

    def boolean(self, key: str, *, default: bool) -> bool:
        """`true` or `false`; YAML's other spellings are refused."""
        node = self._values.get(key)
        if node is None:
            return default
        text = self._scalar(node, self._field(key), "true or false")
        if text is None:
            return default
        if text not in _BOOLEANS or _quoted(node):
            self.mistake(key, f"is {text!r}; expected true or false, without quotes")
            return default
        return _BOOLEANS[text]

    def integer(self, key: str, low: int, high: int, *, default: int | None = None) -> int:
        """A whole number within bounds. Without a default it is required; wrong or left out, it is the lowest then."""
        expected = f"a whole number from {low} to {high}"
        fallback = low if default is None else default
        node = self._values.get(key)
        if node is None:
            if default is None:
                self._missing(key, expected)
            return fallback
        text = self._scalar(node, self._field(key), expected)
        if text is None:
            return fallback
        if not _INTEGER.fullmatch(text) or _quoted(node) or not low <= int(text) <= high:
            self.mistake(key, f"is {text!r}; expected {expected}, in plain digits without quotes")
            return fallback
        return int(text)

    def number(self, key: str, low: float, high: float, *, default: float) -> float:
        """A number within bounds, with decimals where it has any; the default where it is left out or wrong."""
        expected = f"a number from {low:g} to {high:g}"
        node = self._values.get(key)
        text = None if node is None else self._scalar(node, self._field(key), expected)
        if node is None or text is None:
            return default
        if not _DECIMAL.fullmatch(text) or _quoted(node) or not low <= float(text) <= high:
            self.mistake(key, f"is {text!r}; expected {expected}, in plain digits without quotes")
            return default
        return float(text)

    def milliseconds(self, key: str, low: int, high: int, *, default: int | None = None) -> int:
        """A time given in whole seconds within bounds; `default` is in milliseconds, else as `integer`."""
        if default is not None and not self.has(key):
            return default
        return 1_000 * self.integer(key, low, high)

    def only_one(self, keys: Sequence[str]) -> str:
        """The one key that is given of several of which one is needed; empty where there is none or more."""
        given = [key for key in keys if self.has(key)]
        for key in given[1:]:
            self.mistake(key, f"is given beside {given[0]}; keep one of {', '.join(keys)}")
        if not given:
            self.mistake("", f"does not say what it is; expected one of {', '.join(keys)}", line=self.line)
        return given[0] if len(given) == 1 else ""

    def only(self, keys: Collection[str], of: str) -> None:
        """Keep to these of the keys that it may have; `of` says what has no others."""
        for key in self._values:
            if key not in keys:
                self.mistake(key, f"is not a key of {of}; expected one of {', '.join(keys)}")

    def glance(self, key: str, label: str) -> str:
        """What a mapping below has under `label`, where that decides which keys it has. Nothing is noted."""
        return _label(self._values[key], label) if key in self._values else ""

    def entry(self, key: str, keys: Collection[str] | Pattern, *, required: bool = False) -> Entry | None:
        """A mapping below this one, or None where it is left out or none."""
        if key not in self._values:
            if required:
                self._missing(key, _mapping(keys))
            return None
        entry = Entry(self._values[key], self._field(key), self.notes, keys, self._key_lines[key])
        return None if entry.broken else entry

    def entries(self, key: str, label: str, keys: Collection[str], *, required: bool = False) -> list[Entry]:
        """A list of mappings. Each is called by the value of its `label` in messages, or by its index without one."""
        nodes = self._items(key, required=required, expected="a list of mappings")
        return [
            Entry(node, f"{self._field(key)}[{_label(node, label) or index}]", self.notes, keys)
            for index, node in enumerate(nodes)
        ]

    def _items(self, key: str, *, required: bool, expected: str) -> Iterator[yaml.Node]:
        node = self._values.get(key)
        if node is None:
            if required:
                self._missing(key, expected)
            return
        if not isinstance(node, yaml.SequenceNode):
            self.mistake(key, f"is {_kind(node)}; expected {expected}, such as [a, b]")
            return
        if self._tag_ok(node, self._field(key)):
            if required and not node.value:
                self.mistake(key, f"is empty; expected {expected}")
            yield from node.value

    def locate(self, path: str) -> tuple[int, str]:
        """Line and field of a dotted path below this entry (`ipv4.gateways`): of as much of it as the file has."""
        line, where = self.line, self.where
        lines, values = self._key_lines, self._values
        for key in path.split(".") if path else ():
            if key not in values:
                break
            line, where = lines[key], f"{where}.{key}"
            node = values[key]
            pairs = node.value if isinstance(node, yaml.MappingNode) else ()
            scalars = [(below, value) for below, value in pairs if isinstance(below, yaml.ScalarNode)]
            lines = {str(below.value): _line(below) for below, _ in scalars}
            values = {str(below.value): value for below, value in scalars}
        return line, where


def _label(node: yaml.Node, label: str) -> str:
    """What an item calls itself, if it does so in a plain way."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == label and isinstance(value, yaml.ScalarNode):
                text = str(value.value)
                return text if text.isprintable() else ""
    return ""


class Register(Generic[_Item]):
    """What a file declares of one kind, by name.

    A reference to a name that is not declared is a mistake, unless a declaration could not be read: then the name
    may have been meant by it, and one mistake would be told as many.
    """

    def __init__(self, kind: str, *, complete: bool = True) -> None:
        self.kind = kind
        self.complete = complete
        self._items: dict[str, _Item] = {}
        self._lines: dict[str, int] = {}

    def add(self, entry: Entry, key: str, name: str, item: _Item) -> None:
        """Declare an item by the name that stands under `key`; names differ by more than case."""
        if not name:
            self.complete = False
            return
        same = next((known for known in self._items if known.lower() == name.lower()), None)
        if same is not None:
            entry.mistake(key, f"{name!r} is taken: line {self._lines[same]} has the {self.kind} {same!r} already")
            return
        self._items[name] = item
        self._lines[name] = entry.line_of(key)

    def find(self, entry: Entry, key: str, name: str, *, line: int | None = None) -> _Item | None:
        """The item that a value refers to. An unknown name is a mistake; an empty one was one before."""
        if name in self._items or not name:
            return self._items.get(name)
        if self.complete:
            known = did_you_mean(name, self._items) or f"; known: {', '.join(self._items) or 'none'}"
            entry.mistake(key, f"there is no {self.kind} {name!r}{known}", line=line)
        return None

    @property
    def items(self) -> Mapping[str, _Item]:
        return self._items
