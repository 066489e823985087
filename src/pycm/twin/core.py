# SPDX-License-Identifier: Apache-2.0
"""The twin without I/O: what comes in (connections, messages, container events, samples) to decisions (`actions`).

It knows no socket, file, timer or clock. It keeps the containers as the events tell them, so that everything it publishes is derived from
state: while there is no session nothing is kept for later but answers, and a registration tells the whole truth anew, in one message a
feature.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pycm.errors import InvalidInputError, shorten
from pycm.model.defaults import new_id
from pycm.model.states import Status
from pycm.ports import Action, ContainerMeasurements, Event, HostMeasurements
from pycm.twin import envelope as ditto
from pycm.twin import session
from pycm.twin.commands import RUNNING, Command, Recent, Refusal, accept, address_of, mark_of
from pycm.twin.envelope import Problem
from pycm.twin.features import container_factory, metrics, software_updatable
from pycm.twin.features.container import ContainerFeature, feature_id, operations_under, state_value
from pycm.twin.features.container_config import ALL
from pycm.twin.features.container_factory import ContainerFactory
from pycm.twin.features.metrics import Due, Metrics, data_value
from pycm.twin.features.software_updatable import DEPENDENCIES_PATH, SoftwareUpdatable
from pycm.twin.lanes import Jobs, Task
from pycm.twin.outbox import (
    CONTAINERS,
    MACHINE,
    Decision,
    Forget,
    Keep,
    LateAnswers,
    Measure,
    Note,
    Publish,
    Recall,
    Remember,
    Subscribe,
    Unsubscribe,
    ignored,
)
from pycm.twin.session import (
    CONTAINER_PREFIX,
    EDGE_REQUEST,
    EDGE_RESPONSE,
    THING_SUFFIX,
    Input,
    Session,
    Step,
)
from pycm.twin.state import Kept
from pycm.twin.telling import told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pycm.config.types import Policy
    from pycm.model.container import Container
    from pycm.twin.features.base import Feature
    from pycm.twin.lanes import Property
    from pycm.twin.session import Thing
    from pycm.twin.system_metrics import SystemMetrics

    Finish = Callable[[Any], list[Decision]]

DEFAULT_FEATURES = (container_factory.ID, software_updatable.ID, metrics.ID)

#: Things that were ours and whose features could not be deleted yet.
MAX_LEFT = 4


class Twin:
    """`containers`: all containers there are now, asked for at each registration. `features`: the enabled ones by name.

    `mask_env`: values of environment variables are not shown. `system_metrics`: serve the machine's figures on the device's own thing.
    """

    def __init__(
        self,
        containers: Callable[[], Iterable[Container]],
        features: Iterable[str] = DEFAULT_FEATURES,
        *,
        mask_env: bool = False,
        system_metrics: bool = False,
        policy: Policy = ALL,
    ) -> None:
        self._list = containers
        self._session = Session()
        self._containers: dict[str, Container] = {}
        self._stale: frozenset[str] = frozenset()
        self._left_over: frozenset[str] = frozenset()
        self._metrics = Metrics(self._containers.values)
        self._software = SoftwareUpdatable(self._containers.values, self._exists, policy, mask_env=mask_env)
        self._jobs = Jobs()
        self._recent = Recent()
        #: The thing that request, statuses and published features belong to; it outlives a loss of the connection.
        self._owner: Thing | None = None
        self._left: dict[Thing, frozenset[str]] = {}
        self._late = LateAnswers()
        #: In the order of registration: the list first, then the containers, then the figures.
        available: dict[str, Feature] = {
            software_updatable.ID: self._software,
            container_factory.ID: ContainerFactory(policy),
            metrics.ID: self._metrics,
        }
        enabled = frozenset(features)
        self._features = {name: feature for name, feature in available.items() if name in enabled}
        self._container_feature = ContainerFeature(operations_under(policy), mask_env=mask_env)
        self._mask_env = mask_env
        self._system: SystemMetrics | None = None
        if system_metrics:
            from pycm.twin.system_metrics import SystemMetrics  # for those who want it

            self._system = SystemMetrics(new_id)

    def _exists(self, container_id: str) -> bool:
        return any(container.id == container_id for container in self._list())

    def restore(self, kept: Kept) -> None:
        """Before the first connection: what the agent before this one left."""
        self._owner = kept.thing
        self._software.restore(kept.told)
        self._metrics.restore(kept.request)
        self._left_over = frozenset(kept.container_ids)
        if self._system:
            self._system.restore(kept.machine)

    @property
    def thing(self) -> Thing | None:
        return self._session.thing

    # ── the connection and the connector ──

    def connected(self) -> list[Decision]:
        return self._take(self._session.feed(Input.CONNECTED))

    def disconnected(self) -> list[Decision]:
        return self._take(self._session.feed(Input.LOST))

    def retry(self) -> list[Decision]:
        """Something could not be sent though the connection is up: tell everything anew."""
        return self._take(self._session.feed(Input.RETRY))

    def recalled(self, thing: Thing, container_ids: Iterable[str]) -> list[Decision]:
        """The answer to Recall. One that comes late, for another thing, is not wanted any more."""
        if thing != self.thing:
            return []
        self._stale = frozenset(container_ids)
        return self._take(self._session.feed(Input.RECALLED))

    def leave(self) -> list[Decision]:
        """The agent ends: stop listening."""
        listening = self._session.listening
        if self._session.feed(Input.LOST) == ():
            return []
        topics = [EDGE_RESPONSE, *([listening.commands] if listening else [])]
        if self._system and listening:
            topics.append(self._system.commands)
        return [*self._pause(), *(Unsubscribe(topic) for topic in topics)]

    def _take(self, steps: Iterable[Step]) -> list[Decision]:
        return [decision for step in steps for decision in self._STEPS[step](self)]

    def _announce(self) -> list[Decision]:
        return [Subscribe(EDGE_RESPONSE), Publish(EDGE_REQUEST, ditto.EMPTY, EDGE_REQUEST)]

    def _leave(self) -> list[Decision]:
        old, self._session.listening = self._session.listening, None
        if old is None or old == self.thing:
            return []
        return [Unsubscribe(old.commands)]

    def _recall(self) -> list[Decision]:
        """Before that, the features of things that are not ours any more are deleted, which may be possible still."""
        thing = self._the_thing()
        if self._owner not in (None, thing):
            self._give_up(self._owner)
        self._left.pop(thing, None)
        cleared: list[Decision] = []
        for old, container_ids in self._left.items():
            gone = [*map(feature_id, sorted(container_ids)), *self._features]
            cleared += [self._delete(f"/features/{name}", old) for name in gone]
            if self._system and old.id != thing.id:
                cleared.append(self._system.delete(old.id.removesuffix(THING_SUFFIX)))
            cleared.append(Forget(old, file=old.id != thing.id))
        return [*cleared, Recall(thing)]

    def _give_up(self, old: Thing | None) -> None:
        assert old is not None
        shown = self._containers.keys() | self._left_over if container_factory.ID in self._features else ()
        self._left[old] = frozenset(shown)
        while len(self._left) > MAX_LEFT:
            self._left.pop(next(iter(self._left)))
        self._owner, self._metrics.request = None, None
        self._software.told = {}
        self._late.take()
        self._recent.clear()
        if self._system:
            self._system.forget()

    def unsent(self, answers: Iterable[Publish]) -> None:
        """Their sending failed: they are given after the next registration, once, since one of them may be why it failed."""
        mine = session.response_topic(self._owner.id, "", 0).partition("/res/")[0] if self._owner else None
        for answer in answers:
            if not answer.again and answer.topic.partition("/res/")[0] == mine:
                self._late.add(replace(answer, again=True))

    def forgotten(self, thing: Thing) -> None:
        """The answer to Forget: everything before it was sent."""
        self._left.pop(thing, None)

    def _listen(self) -> list[Decision]:
        assert self.thing is not None
        if self._session.listening == self.thing:
            return []
        self._session.listening = self.thing
        return [Subscribe(self.thing.commands), *self._late.take()]

    def _pause(self) -> list[Decision]:
        return [Measure(None), *(self._system.end() if self._system else [])]

    def _register(self) -> list[Decision]:
        self._containers.clear()
        self._containers.update((container.id, container) for container in self._list())
        self._owner, self._left_over = self.thing, frozenset()
        decisions: list[Decision] = [self._keep()]
        for name in self._features:
            decisions += self._registration(name)
        if self._system and self._session.device:
            decisions += self._system.begin(self._session.device)
        return decisions

    def _registration(self, name: str) -> list[Decision]:
        feature = self._features[name]
        own = self._modify(f"/features/{name}", feature.value())
        if name == container_factory.ID:
            return [*self._register_containers(), own]
        return [own, *self._metrics.begin(resume=True)] if name == metrics.ID else [own]

    def _register_containers(self) -> list[Decision]:
        """The stored list is written before a feature appears and after one is gone, so that no cut leaves one unknown."""
        stale = sorted(self._stale - self._containers.keys())
        self._stale = frozenset()
        published = [self._whole(container) for container in self._containers.values()]
        deleted = [self._delete(f"/features/{feature_id(gone)}") for gone in stale]
        return [self._remember(stale), *published, *deleted, *([self._remember()] if stale else [])]

    _STEPS: Mapping[Step, Callable[[Twin], list[Decision]]] = {
        Step.ANNOUNCE: _announce,
        Step.LEAVE: _leave,
        Step.RECALL: _recall,
        Step.REGISTER: _register,
        Step.LISTEN: _listen,
        Step.PAUSE: _pause,
    }

    # ── messages ──

    def message(self, topic: str, payload: bytes, *, retained: bool = False) -> list[Decision]:
        """*retained*: the broker kept it; a device stays valid, a command would run at each start of the agent."""
        if topic == EDGE_RESPONSE:
            return self._edge_response(payload)
        if retained:
            level = logging.WARNING if self._recent.is_first_retained() else logging.DEBUG
            return [ignored(topic, payload, "a retained command; delete it at the broker", level)]
        if self._system and self._system.is_command(topic):
            before = self._system.kept
            decisions = self._system.message(topic, payload)
            return [*decisions, *([self._keep()] if self._system.kept != before else [])]
        if topic.startswith("command//"):
            return self._command(topic, payload)
        return []

    def _edge_response(self, payload: bytes) -> list[Decision]:
        try:
            found = ditto.parse(payload)
            if not isinstance(found, dict):
                raise InvalidInputError("not a JSON object")
            device = session.device_from(ditto.members(found))
        except InvalidInputError as error:
            return [ignored(EDGE_RESPONSE, payload, str(error))]
        return self._take(self._session.meet(device))

    def _command(self, topic: str, payload: bytes) -> list[Decision]:
        address = address_of(topic)
        if address is None:
            return [ignored(topic, payload, "the topic is not that of a command")]
        if address.is_event:
            return [Note(logging.DEBUG, f"{shorten(topic)}: the twin's own event is ignored")]
        found = accept(address, payload, self)
        if isinstance(found, Refusal):
            level = logging.DEBUG if found.answer else logging.WARNING
            note = Note(level, f"command refused, {shorten(topic)}: {shorten(found.reason, 300)}")
            return [note, *([found.answer] if found.answer else [])]
        if found.operation in found.feature.once:
            return self._run_once(found, mark_of(topic, payload))
        return self._run(found, partial(self._finished, found.without_argument(), self.thing), None)

    def _run_once(self, command: Command, mark: bytes) -> list[Decision]:
        """The second copy of a command gets the answer of the first, in whose place it may be."""
        if mark not in self._recent:
            self._recent.begin(mark)
            return self._run(
                command, partial(self._ended_once, mark, command.without_argument(), self.thing), mark
            )
        value = self._recent.value(mark)
        return [] if value is RUNNING else self._finished(command, self.thing, value)

    def _ended_once(self, mark: bytes, command: Command, thing: Thing | None, outcome: Any) -> list[Decision]:
        if isinstance(outcome, Problem):
            self._recent.forget(mark)
        else:
            self._recent.end(mark, outcome)
        return self._finished(command, thing, outcome)

    def _job_ended(self, mark: bytes | None, succeeded: Any) -> list[Decision]:
        """A job in the background was answered when it began, and tells its end by itself."""
        if mark is not None and not succeeded:
            self._recent.forget(mark)
        return []

    def _run(self, command: Command, finish: Finish, mark: bytes | None) -> list[Decision]:
        """*mark*: that of a command which runs once."""
        changed = partial(self._changed, self.thing)
        before = self._metrics.request
        try:
            reaction = command.feature.run(command.feature_id, command.operation, command.argument)
            if isinstance(reaction, Task):
                return self._jobs.begin(reaction, finish, changed, command.size)
            ended = partial(self._job_ended, mark)
            begun = self._jobs.begin(reaction.task, ended, changed, command.size) if reaction.task else []
        except Problem as problem:
            return finish(problem)
        keep = [self._keep()] if self._metrics.request != before else []
        return [*reaction.decisions, *finish(reaction.value), *begun, *keep]

    def _finished(self, command: Command, thing: Thing | None, outcome: Any) -> list[Decision]:
        """The answer. Without a session it waits for the next one of the same thing."""
        if isinstance(outcome, Problem):
            answer = command.refuse(outcome.without_secrets() if self._mask_env else outcome)
            if answer is None:
                path = f"{command.feature_id} {command.operation}"
                text = f"command failed, {shorten(path)}: {shorten(outcome.masked, 300)}"
                return [Note(logging.WARNING, text)]
        else:
            answer = command.answer(outcome)
        if answer is None or thing not in (self._owner, self.thing):
            return []
        if self.thing is None:
            self._late.add(answer)
            return []
        return [answer]

    def _changed(self, thing: Thing | None, changed: Property) -> list[Decision]:
        """A job of a thing that is not ours any more has nobody to tell."""
        if thing != self._owner:
            return []
        self._software.told[changed.path.rpartition("/")[2]] = changed.value
        news = [self._modify(changed.path, changed.value)] if self._session.registered else []
        return [*news, self._keep()]

    def done(self, ticket: int, outcome: Any) -> list[Decision]:
        """What came of a Run: its result, or Failed."""
        return self._jobs.done(ticket, outcome)

    def _keep(self) -> Keep:
        machine = self._system.kept if self._system else None
        return Keep(Kept(self._owner, (), self._software.told, self._metrics.argument, machine).as_state())

    def thing_id(self) -> str:
        return self.thing.id if self.thing else ""

    def feature(self, wanted: str) -> Feature | None:
        kind, colon, container_id = wanted.partition(":")
        if colon and kind + colon == CONTAINER_PREFIX:
            shown = container_factory.ID in self._features and container_id in self._containers
            return self._container_feature if shown else None
        return self._features.get(wanted)

    # ── containers ──

    def event(self, event: Event) -> list[Decision]:
        """Told at once while the features are registered, else not at all: registration begins with a list of its own."""
        container, action = event.container, event.action
        if action is Action.REMOVED:
            self._recent.removed(container.id)
        if not self._session.registered:
            return []
        before = self._containers.get(container.id)
        if action is Action.REMOVED:
            if before is None:
                return []
            del self._containers[container.id]
        else:
            self._containers[container.id] = container
            action = action if before else Action.CREATED
        decisions: list[Decision] = []
        for name in told(action, before, container):
            decisions += self._TELLERS[name](self, container, action)
        return decisions

    def _tell_feature(self, container: Container, _: Action) -> list[Decision]:
        return [self._whole(container)] if container_factory.ID in self._features else []

    def _tell_state(self, container: Container, action: Action) -> list[Decision]:
        status = Status.DEAD if action is Action.REMOVED else None
        return self._property(container, "state", state_value(container, status))

    def _tell_name(self, container: Container, _: Action) -> list[Decision]:
        return self._property(container, "name", container.name)

    def _tell_config(self, container: Container, _: Action) -> list[Decision]:
        return self._property(container, "config", self._container_feature.config_of(container))

    def _tell_delete(self, container: Container, _: Action) -> list[Decision]:
        if container_factory.ID not in self._features:
            return []
        return [self._delete(f"/features/{feature_id(container.id)}")]

    def _tell_dependencies(self, _: Container, __: Action) -> list[Decision]:
        feature = self._features.get(software_updatable.ID)
        if not isinstance(feature, SoftwareUpdatable):
            return []
        return [self._modify(DEPENDENCIES_PATH, feature.installed())]

    def _tell_remember(self, _: Container, __: Action) -> list[Decision]:
        return [self._remember()] if container_factory.ID in self._features else []

    def _tell_baseline(self, container: Container, _: Action) -> list[Decision]:
        return self._metrics.container_runs(container.id)

    _TELLERS: Mapping[str, Callable[[Twin, Container, Action], list[Decision]]] = {
        "feature": _tell_feature,
        "state": _tell_state,
        "name": _tell_name,
        "config": _tell_config,
        "delete": _tell_delete,
        "dependencies": _tell_dependencies,
        "remember": _tell_remember,
        "baseline": _tell_baseline,
    }

    # ── figures ──

    def due(self, reader: str = CONTAINERS) -> Due:
        """The period of *reader* is over: what to sample."""
        if reader == MACHINE:
            return Due(host=self._system.due() if self._system else {})
        return self._metrics.due() if self._session.registered else Due()

    def measured(
        self,
        samples: Sequence[ContainerMeasurements],
        host: Sequence[HostMeasurements],
        unix_seconds: int,
        reader: str = CONTAINERS,
    ) -> list[Decision]:
        """What `due` asked for."""
        if reader == MACHINE:
            return self._system.measured(host, unix_seconds) if self._system else []
        value = data_value(samples, host, unix_seconds)
        thing = self.thing
        if value is None or thing is None:
            return []
        payload = ditto.live_message(thing, metrics.ID, metrics.DATA, value)
        return [Publish(thing.events, payload, f"/features/{metrics.ID}/outbox/messages/{metrics.DATA}")]

    # ── messages to the twin ──

    def _the_thing(self) -> Thing:
        thing = self.thing
        assert thing is not None
        return thing

    def _modify(self, path: str, value: Any) -> Publish:
        thing = self._the_thing()
        return Publish(thing.events, ditto.modify(thing, path, value), path)

    def _delete(self, path: str, thing: Thing | None = None) -> Publish:
        return Publish((thing := thing or self._the_thing()).events, ditto.delete(thing, path), path)

    def _whole(self, container: Container) -> Publish:
        path = f"/features/{feature_id(container.id)}"
        return self._modify(path, self._container_feature.value_of(container))

    def _property(self, container: Container, name: str, value: Any) -> list[Decision]:
        if container_factory.ID not in self._features:
            return []
        return [self._modify(f"/features/{feature_id(container.id)}/properties/status/{name}", value)]

    def _remember(self, more: Iterable[str] = ()) -> Remember:
        ids = [*self._containers, *more]
        return Remember(self._the_thing(), {container_id: feature_id(container_id) for container_id in ids})
