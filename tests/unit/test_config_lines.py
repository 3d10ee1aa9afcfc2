"""The line of every key: golden texts, and agreement with tomllib on what there is."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hypervisor.config.lines import Path, key_lines


def test_every_kind_of_key_has_its_line() -> None:
    text = """\
# a comment with [brackets] and = signs
title = "a # no comment"      # a comment
"quoted key" = 'literal "x"'
dotted . inner . key = 1

[table]
plain = '''
[not a table]
key = 1
'''
after = \"\"\"one \\\"\"\" quote \"\" and more\"\"\"

[[array]]
first = 1
[array.sub]
deep = 2
[[array]]
first = [
  1, # one
  "two, ]", [3,
  4],
]
inline = { a = 1, b.c = [ { d = 2 } ] }
when = 1979-05-27 07:32:00
"""
    assert tomllib.loads(text)  # the text is what it claims to be
    lines = key_lines(text)
    expected: dict[Path, int] = {
        ("title",): 2,
        ("quoted key",): 3,
        ("dotted", "inner", "key"): 4,
        ("table",): 6,
        ("table", "plain"): 7,
        ("table", "after"): 11,
        ("array",): 13,
        ("array", 0): 13,
        ("array", 0, "first"): 14,
        ("array", 0, "sub"): 15,
        ("array", 0, "sub", "deep"): 16,
        ("array", 1): 17,
        ("array", 1, "first"): 18,
        ("array", 1, "first", 0): 19,
        ("array", 1, "first", 1): 20,
        ("array", 1, "first", 2): 20,
        ("array", 1, "first", 2, 1): 21,
        ("array", 1, "inline", "b", "c", 0, "d"): 23,
        ("array", 1, "when"): 24,
    }
    assert {path: lines.get(path) for path in expected} == expected


def test_windows_line_ends_count_once() -> None:
    lines = key_lines("a = 1\r\n\r\n[t]\r\nb = '''x\r\ny'''\r\nc = 2\r\n")
    assert lines == {("a",): 1, ("t",): 3, ("t", "b"): 4, ("t", "c"): 6}


def test_quotes_at_the_ends_of_long_strings_belong_to_them() -> None:
    text = 'a = """"x"""""\nb = \'\'\'\'y\'\'\'\'\'\nc = """"""\nd = 1\n'
    assert tomllib.loads(text) == {"a": '"x""', "b": "'y''", "c": "", "d": 1}
    assert key_lines(text) == {("a",): 1, ("b",): 2, ("c",): 3, ("d",): 4}


def test_an_empty_document_has_no_lines() -> None:
    assert key_lines("") == {}
    assert key_lines("\n# nothing\n") == {}


_KEYS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=5)
_SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**31), 2**31),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=12,
)


def _quoted(text: str, long: bool = False) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"""\n{escaped}"""' if long else f'"{escaped}"'


def _written(value: Any) -> str:
    """Write a value as TOML, with line breaks and comments wherever they are allowed."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return _quoted(value, long=len(value) % 2 == 1)
    if isinstance(value, list):
        return "[ # [{\n" + "".join(f"{_written(one)}, # ]}}\n" for one in value) + "]"
    members = ", ".join(f"{_quoted(key)} = {_written(one)}" for key, one in value.items())
    return "{" + members + "}"


def _paths(value: Any, path: Path = ()) -> set[Path]:
    found = {path} if path else set()
    if isinstance(value, dict):
        for key, one in value.items():
            found |= _paths(one, (*path, key))
    elif isinstance(value, list):
        for index, one in enumerate(value):
            found |= _paths(one, (*path, index))
    return found


@given(
    st.dictionaries(_KEYS, _VALUES, max_size=4),
    st.lists(st.dictionaries(_KEYS, _VALUES, max_size=3), max_size=3),
)
def test_exactly_the_keys_that_tomllib_sees_have_lines(
    top: dict[str, Any], tables: list[dict[str, Any]]
) -> None:
    top.pop("tables", None)
    text = "".join(f"{_quoted(key)}={_written(value)}\n" for key, value in top.items())
    for table in tables:
        text += "\n  [[ tables ]] # [[x]]\n"
        text += "".join(f"{_quoted(key)} = {_written(value)}\n" for key, value in table.items())
    document = tomllib.loads(text)
    assert document == top | ({"tables": tables} if tables else {})
    lines = key_lines(text)
    assert set(lines) == _paths(document)
    last = text.count("\n") + 1
    assert all(1 <= line <= last for line in lines.values())
