# SPDX-License-Identifier: Apache-2.0
"""RDEPENDS computed: what the code imports, as packages of each release, is what the recipe names; no more, no less."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from layer_support import RECIPE, REPOSITORY
from python_imports import LIBRARIES, imported, needed

if TYPE_CHECKING:
    from collections.abc import Callable

    from layer_support import Built

SOURCES = REPOSITORY / "src"


def test_what_is_imported_is_what_the_recipe_depends_on(built: Built) -> None:
    named = set(built.words("RDEPENDS:pycm"))
    wanted = needed(built.release, SOURCES)
    assert sorted(wanted - named) == [], "imported, not in RDEPENDS"
    assert sorted(named - wanted) == [], "in RDEPENDS, not imported"


def test_every_library_that_a_package_is_known_for_is_imported() -> None:
    assert sorted(set(LIBRARIES) - {module.partition(".")[0] for module in imported(SOURCES)}) == []


def test_the_command_line_needs_nothing_that_the_agent_does_not(built: Built) -> None:
    assert set(built.words("RDEPENDS:pycm-cli")) == {"pycm", "python3-core"}


@pytest.mark.parametrize(
    ("part", "package"),
    [
        ("cgroup1", "python3-cgroupspy"),
        ("host-figures", "python3-psutil"),
        ("network", "cni"),
        ("twin", "python3-paho-mqtt"),
    ],
)
def test_an_optional_part_that_is_left_out_takes_its_dependencies_with_it(
    part: str, package: str, read: Callable[..., Built], built: Built
) -> None:
    parts = {"cgroup1", "host-figures", "network", "twin"} - {part}
    smaller = read(
        built.release, RECIPE, "RDEPENDS:pycm", variables={"PACKAGECONFIG:pn-pycm": " ".join(sorted(parts))}
    )
    assert set(built.words("RDEPENDS:pycm")) - set(smaller.words("RDEPENDS:pycm")) >= {package}
