# SPDX-License-Identifier: Apache-2.0
"""Keys of a document that nobody knows: misspelt most of the time, and then what was meant is not done."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pycm.model.fields import Form, Record, forms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: A key's letters that are looked at for the nearest known one.
_LONGEST = 100


def unknown_keys(record: Record, path: str = "") -> Iterator[tuple[str, Callable[[], str]]]:
    """Path of each key that no field of *record* claims, and of the records in it; and how to find the nearest known key there, or ""."""
    for key in record.extra:
        yield f"{path}.{key}" if path else key, partial(_nearest, key, record)
    for attribute, form in forms(type(record)):
        for where, child in _children(form, getattr(record, attribute)):
            yield from unknown_keys(child, f"{path}.{where}" if path else where)


def _children(form: Form, value: object) -> Iterator[tuple[str, Record]]:
    if isinstance(value, Record):
        yield form.json, value
    elif form.kind == "many" and isinstance(value, tuple):
        for number, item in enumerate(value):
            yield f"{form.json}[{number}]", item
    elif form.kind == "map" and isinstance(value, dict):
        for key, item in value.items():
            yield f"{form.json}.{key}", item


def _nearest(key: str, record: Record) -> str:
    from difflib import get_close_matches  # slow to import, and seldom needed

    known = [form.json for _, form in forms(type(record))]
    return next(iter(get_close_matches(key.casefold()[:_LONGEST], known, 1)), "")
