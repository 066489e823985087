# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/twin.md and docs/cloud.md against the code."""

import pathlib
import re
from importlib.util import find_spec

import pytest

from pycm.config.types import Policy
from pycm.model import gojson
from pycm.mqtt import client, link, paho
from pycm.twin import commands, envelope, features, lanes, outbox
from pycm.twin.core import Twin
from pycm.twin.features import metrics, software_jobs
from pycm.twin.features.container import ContainerFeature
from pycm.twin.session import EDGE_REQUEST, EDGE_RESPONSE, Device, response_topic, thing_of

DOCS = pathlib.Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "twin.md").read_text()


def rows(title):
    """The cells of each row of the last table in the section, without its head."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\|(.*)\|$", section, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines[2:]]


def words(cell):
    return re.findall(r"`([^`]+)`", cell)


def test_page_names_every_operation():
    page, feature = {}, ""
    for name, operations, _, _ in rows("Operations"):
        feature = words(name)[0] if name else feature
        page.setdefault(feature, []).extend(words(operations))
    code = {name: set(one.operations) for name, one in Twin(list)._features.items()}
    assert {name: set(found) for name, found in page.items()} == {
        **code,
        "Container:<id>": set(ContainerFeature().operations),
    }


def test_page_names_every_key_of_the_policy():
    assert [words(key)[0] for key, _ in rows("Who may command")] == list(Policy.MEMBERS)


def size(number):
    return f"{number >> 20} MiB" if number % (1 << 20) == 0 else f"{number >> 10} KiB"


#: The beginning of each row that has figures, and these.
BOUNDS = {
    "payload that is read": (size(envelope.MAX_PAYLOAD), f"{gojson.DEPTH} levels"),
    "packet that is received": (size(link.MAX_PACKET),),
    "acknowledgements that the broker does not read": (str(paho.MAX_UNSENT),),
    "pending values": (str(outbox.MAX_PENDING),),
    "pending answers": (str(outbox.MAX_ANSWERS), size(outbox.MAX_ANSWER_BYTES)),
    "answers that wait for a connection": (str(outbox.MAX_LATE_ANSWERS), size(outbox.MAX_LATE_BYTES)),
    "remembered commands": (str(commands.MAX_RECENT),),
    "operations that run or wait": (
        str(lanes.MAX_JOBS),
        size(lanes.MAX_BYTES),
        f"{lanes.MAX_CREATIONS} creations",
    ),
    "artifact of a software module": (size(software_jobs.MAX_ARTIFACT), size(software_jobs.MAX_MODULE)),
    "modules or pieces of software": (str(software_jobs.MAX_SOFTWARE),),
    "publishes without acknowledgement": (str(client.MAX_IN_FLIGHT), f"{client.MAX_WAITING} callers"),
    "acknowledgement (": (),
    "remembered kinds": (str(client.MAX_REFUSALS),),
    "log lines": (str(client.MAX_LINES), f"{client.LASTED:g} s"),
    "filter of a metrics request": (
        f"{metrics.MAX_FILTERS} entries",
        f"{metrics.MAX_IDS} ids",
        f"{metrics.MAX_ALL_IDS} ids",
    ),
    "list and text": (f"{features.MAX_ENTRIES} entries", f"{features.MAX_TEXT} characters"),
}


def test_page_has_the_bounds_of_the_code():
    found = {what: bound for what, bound, _ in rows("Bounds")}
    for what, bound in found.items():
        [expected] = [figures for begin, figures in BOUNDS.items() if what.startswith(begin)]
        assert [figure for figure in expected if figure not in bound] == [], what
        assert find_spec("pycm." + words(what)[0].removesuffix(".py").replace("/", "."))
    assert len(found) == len(BOUNDS)


@pytest.mark.parametrize(
    "status", [software_jobs.SUCCESS, software_jobs.ERROR, software_jobs.REJECTED, "INSTALLING", "REMOVING"]
)
def test_page_names_the_statuses_of_software(status):
    assert status in PAGE


def test_cloud_page_names_the_topics():
    page = (DOCS / "cloud.md").read_text()
    thing = thing_of(Device("<device>", "<tenant>"))
    requests = thing.commands.replace("#", "<id>/<name>")
    answers = response_topic(thing.id, "<id>", 0).removesuffix("0") + "<status>"
    for topic in (EDGE_REQUEST, EDGE_RESPONSE, thing.events, requests, answers):
        assert f"`{topic}`" in page
