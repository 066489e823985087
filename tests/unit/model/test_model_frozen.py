# SPDX-License-Identifier: Apache-2.0
"""Frozen classes: defaults, comparison, copies with other values, and what they refuse."""

from __future__ import annotations

import copy
import pickle

import pytest

from pycm.model.container import Container, HostConfig, Image, Resources
from pycm.model.frozen import Frozen, replace


class Point(Frozen, uncompared=("note",)):
    x: int = 0
    y: int = 0
    note: str = ""


class Place(Point):
    name: str = "here"


def test_fields_have_the_defaults_of_the_class() -> None:
    assert (Point().x, Point(y=2).y, Place(x=1).name) == (0, 2, "here")


def test_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^Point has no z$"):
        Point(z=1)  # type: ignore[call-arg]


def test_equality_looks_at_values_and_class_but_not_at_uncompared_fields() -> None:
    assert Point(x=1) == Point(x=1, y=0, note="a")
    assert hash(Point(x=1)) == hash(Point(x=1, y=0, note="a"))
    assert Point(x=1) != Point(x=2)
    assert Place() != Point()
    assert Place(y=1) != Place(y=2), "fields of the base class count"
    assert Point() != 0


def test_value_cannot_be_set() -> None:
    with pytest.raises(AttributeError, match="Point is frozen"):
        Point().x = 1  # type: ignore[misc]


def test_replace_keeps_the_other_values() -> None:
    place = Place(x=1, y=2, note="a")
    moved = replace(place, x=5)
    assert (moved.x, moved.y, moved.note, type(moved)) == (5, 2, "a", Place)
    assert place.x == 1
    with pytest.raises(TypeError, match="has no z"):
        replace(place, z=1)


def test_text_of_an_object_shows_what_was_given() -> None:
    assert repr(Place(x=1, note="hidden")) == "Place(x=1)"


def test_objects_can_be_copied_and_pickled() -> None:
    place = Place(x=1, note="a")
    for other in (copy.deepcopy(place), pickle.loads(pickle.dumps(place))):
        assert (other, other.note) == (place, "a")


def test_records_keep_unknown_keys_without_comparing_them() -> None:
    container = Container(id="a", image=Image(name="i"), extra={"later": 1})
    assert container == Container(id="a", image=Image(name="i"))
    assert replace(container, name="n").extra == {"later": 1}
    filled = HostConfig(resources=Resources(memory="1M", swap_filled=True))
    assert filled == HostConfig(resources=Resources(memory="1M"))
