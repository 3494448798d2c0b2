"""The YAML document: read with the line of everything in it, written so that it reads back the same. Free of Django.

YAML's surprises are left out: `no`, `on` and 22:00 are texts, only true and false are flags, there are no anchors, no
tags and no key twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

VERSION = 1
MAX_BYTES = 5 * 1024 * 1024
MAX_PROBLEMS = 50
_NULLS = ("null", "~", "")
#: Deeper than any document of ours; Python's own limit would end in a crash of the parser.
_MAX_DEPTH = 20


@dataclass(frozen=True, order=True)
class Problem:
    """What is wrong, and in which line (1 is the first; 0: nowhere in particular)."""

    line: int
    sentence: str

    def __str__(self) -> str:
        return f"Line {self.line}: {self.sentence}" if self.line else self.sentence


class DocumentInvalid(ValueError):
    """The text is no configuration; `problems` says what and where."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = sorted(problems)[:MAX_PROBLEMS]
        super().__init__(" ".join(map(str, self.problems)))


@dataclass(frozen=True)
class Located:
    """A value and its line. `value`: None, str, list[Located] or dict[str, Located]."""

    value: Any
    line: int
    #: Written without quotes: only then true, 3 and null are what they look like.
    is_plain: bool = False


@dataclass
class Entry:
    """One thing of a section."""

    line: int
    fields: dict[str, Located] = field(default_factory=dict)

    def line_of(self, name: str) -> int:
        return self.fields[name].line if name in self.fields else self.line


def read_document(text: str, sections: Sequence[str]) -> dict[str, list[Entry]]:
    """Return the entries of the sections that the document has. Raises: DocumentInvalid."""
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise DocumentInvalid([Problem(0, f"The document is larger than {MAX_BYTES // 1024**2} MiB.")])
    root = _compose(text)
    if root is None or not isinstance(root.value, dict):
        raise DocumentInvalid([Problem(1, f"The document begins with version: {VERSION} and has sections below.")])
    problems: list[Problem] = []
    version = root.value.get("version")
    if version is None or version.value != str(VERSION):
        line = version.line if version else 1
        problems.append(Problem(line, f"Write version: {VERSION} at the beginning; other versions are not known here."))
    found: dict[str, list[Entry]] = {}
    for name, section in root.value.items():
        if name == "version":
            continue
        if name not in sections:
            known = ", ".join(sections)
            problems.append(Problem(section.line, f"There is no section {name!r}; there are {known}."))
        elif section.value is None:
            found[name] = []
        elif not isinstance(section.value, list):
            problems.append(Problem(section.line, f"{name} is a list: each entry begins with a dash."))
        else:
            found[name] = []
            for item in section.value:
                if isinstance(item.value, dict):
                    found[name].append(Entry(item.line, item.value))
                else:
                    problems.append(Problem(item.line, f"Each entry of {name} has fields, at least name: …"))
    if problems:
        raise DocumentInvalid(problems)
    return found


def _compose(text: str) -> Located | None:
    try:
        _check_events(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = " Put quotes around what begins with * or &." if "alias" in str(error.context) else ""
        sentence = f"This is no YAML: {error.problem or error.context}.{hint}"
        raise DocumentInvalid([Problem(mark.line + 1 if mark else 0, sentence)]) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise DocumentInvalid([Problem(0, f"This is no YAML that can be read ({type(error).__name__}).")]) from error
    return None if node is None else _locate(node)


def _check_events(text: str) -> None:
    """Refuse, before anything is built of it, what could be made to grow. Raises: DocumentInvalid, yaml.YAMLError."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if getattr(event, "anchor", None) is not None:
            sentence = "Put quotes around what begins with * or &: there are no anchors here."
            raise DocumentInvalid([Problem(line, sentence)])
        if getattr(event, "tag", None) not in (None, "!"):
            raise DocumentInvalid([Problem(line, "Leave the tag (what begins with !) out.")])
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise DocumentInvalid([Problem(line, "This is nested too deeply.")])


def _locate(node: yaml.Node) -> Located:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode):
        is_plain = node.style is None
        return Located(None if is_plain and node.value in _NULLS else node.value, line, is_plain)
    if isinstance(node, yaml.SequenceNode):
        return Located([_locate(item) for item in node.value], line)
    found: dict[str, Located] = {}
    for key, value in node.value:
        at = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise DocumentInvalid([Problem(at, "A name of a field is a single word.")])
        if key.value in found:
            raise DocumentInvalid([Problem(at, f"{key.value} is there twice.")])
        item = _locate(value)
        # A value is spoken of by the line of its name.
        found[key.value] = Located(item.value, at, item.is_plain)
    return Located(found, line)


class _Dumper(yaml.SafeDumper):
    """Long texts (certificates) as blocks, lists indented below their name."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def write_document(sections: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the document with these entries."""
    content: dict[str, Any] = {"version": VERSION}
    content |= {name: [dict(entry) for entry in entries] for name, entries in sections.items()}
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
