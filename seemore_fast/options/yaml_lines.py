"""YAML read safely, with the line of every key: plain data only, no duplicate keys, one-line errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from seemore_fast.errors import SeemoreError

KeyPath = tuple[str | int, ...]
"""Where a value is: keys of mappings and indices of lists, from the top."""

_MAX_BYTES = 1_000_000


class _Loader(yaml.SafeLoader):
    """SafeLoader, with 5e3 a number (YAML 1.1 wants 5.0e+3) and no key twice in a mapping."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # whatever int(), float() or datetime() make of a tagged scalar
            raise yaml.constructor.ConstructorError(
                None, None, f"not a value of type {node.tag.rpartition(':')[2]}", node.start_mark
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value} appears twice in one group", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def parse_file(path: Path) -> tuple[Any, dict[KeyPath, int]]:
    """The file's data, and the line (from 1) of every key and list entry.

    Raises SeemoreError, naming the file and line, for anything but one YAML document of plain data.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise SeemoreError(f"{path}: larger than 1 MB, which no option file is")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SeemoreError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SeemoreError(f"{path}: not a text file (UTF-8)") from None
    try:
        return _parse(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SeemoreError(f"{path}, line {mark.line + 1 if mark else 1}: {error.problem}") from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        raise SeemoreError(f"{path}, line {line}: {getattr(error, 'reason', 'not YAML')}") from None
    except RecursionError:
        raise SeemoreError(f"{path}: nested too deeply") from None


def parse_value(text: str) -> Any:
    """One value, such as ``~``, ``3``, ``!!float 1e-3`` or ``[1, 2]``.  Raises yaml.YAMLError."""
    try:
        return _parse(text)[0]
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None


def _parse(text: str) -> tuple[Any, dict[KeyPath, int]]:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None, {}
        lines: dict[KeyPath, int] = {}
        _note_lines(root, (), lines, set())
        return loader.construct_document(root), lines
    finally:
        loader.dispose()


def _note_lines(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], seen: set[int]) -> None:
    if id(node) in seen:  # an alias; it may even lead back to itself
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*path, key.value) if isinstance(key, yaml.ScalarNode) else path
            lines[place] = key.start_mark.line + 1
            _note_lines(value, place, lines, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*path, index)] = value.start_mark.line + 1
            _note_lines(value, (*path, index), lines, seen)
