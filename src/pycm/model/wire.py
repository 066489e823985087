# SPDX-License-Identifier: Apache-2.0
"""Records to and from the messages of the gRPC API.

Messages are seen by attribute only, so that this module needs no protobuf: the caller brings the message object.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pycm.errors import InvalidInputError, shorten
from pycm.model.fields import Form, Record, forms

T = TypeVar("T", bound=Record)


def to_message(record: Record, message: Any) -> Any:
    """Fill *message* (a fresh protobuf message of the matching type) from *record* and return it."""
    for attribute, form in forms(type(record)):
        value = getattr(record, attribute)
        if not form.wire or value is None:
            continue
        if form.kind == "one":
            child = getattr(message, form.wire)
            child.SetInParent()
            to_message(value, child)
        elif form.kind == "many":
            for item in value:
                to_message(item, getattr(message, form.wire).add())
        elif form.kind == "map":
            for key, item in value.items():
                to_message(item, getattr(message, form.wire)[key])
        elif form.kind == "texts":
            getattr(message, form.wire).extend(value)
        else:
            setattr(message, form.wire, form.to_wire(value) if form.to_wire else value)
    return message


def from_message(record: type[T], message: Any, path: str = "") -> T:
    """A record from a received message; unset sub-messages are None. Errors: InvalidInputError for numbers out of range."""
    values: dict[str, Any] = {}
    for attribute, form in forms(record):
        if form.wire:
            where = f"{path}.{form.wire}" if path else form.wire
            value = _value(form, message, where)
            if value is not None:
                values[attribute] = value
    return record(**values)


def _value(form: Form, message: Any, path: str) -> Any:
    if form.kind == "one":
        assert form.record is not None
        return (
            from_message(form.record, getattr(message, form.wire), path)
            if message.HasField(form.wire)
            else None
        )
    value = getattr(message, form.wire)
    if form.kind == "texts":
        return tuple(value)
    if form.kind == "many":
        assert form.record is not None
        return tuple(from_message(form.record, item, f"{path}[{i}]") for i, item in enumerate(value))
    if form.kind == "map":
        assert form.record is not None
        return {key: from_message(form.record, value[key], f"{path}.{key}") for key in value}
    if form.from_wire:
        value = form.from_wire(value)
    if form.kind == "int" and not form.low <= value <= form.high:
        raise InvalidInputError(f"{path}: {shorten(value)} is not between {form.low} and {form.high}")
    return value
