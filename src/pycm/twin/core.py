# SPDX-License-Identifier: Apache-2.0
"""The twin without I/O: connections, messages, container events and samples go in, decisions (`outbox`) come out.

It knows no socket, file, timer or clock. It holds the containers as the events report them, so that everything it
publishes is derived from state. Without a session only answers are kept for later; a registration publishes everything
again, one message per feature.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from pycm.config.types import Policy
from pycm.errors import InvalidInputError, shorten
from pycm.model.defaults import new_id
from pycm.model.states import Status
from pycm.ports import Action, ContainerMeasurements, Event, HostMeasurements
from pycm.twin import envelope as ditto
from pycm.twin.commands import RUNNING, Command, Recent, accept, address_of, mark_of
from pycm.twin.envelope import Problem
from pycm.twin.features import metrics, software_updatable
from pycm.twin.features.container import FACTORY, ContainerFactory, ContainerFeature, feature_id, state_value
from pycm.twin.features.metrics import Due, Metrics, data_value
from pycm.twin.features.software_updatable import DEPENDENCIES_PATH, STATUS_PATH, SoftwareUpdatable
from pycm.twin.lanes import Load, Task
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
    Run,
    Subscribe,
    Unsubscribe,
    ignored,
)
from pycm.twin.session import (
    CONTAINER_PREFIX,
    EDGE_REQUEST,
    EDGE_RESPONSE,
    Input,
    Session,
    Step,
    device_from,
)
from pycm.twin.state import Kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pycm.model.container import Container
    from pycm.twin.features import Feature
    from pycm.twin.session import Thing
    from pycm.twin.system_metrics import SystemMetrics

DEFAULT_FEATURES = (FACTORY, software_updatable.ID, metrics.ID)

#: Former things whose features could not be deleted yet.
MAX_LEFT = 4


class Twin:
    """`containers` returns all present containers, at each registration. `features`: the enabled ones by name.

    `mask_env`: hide values of environment variables. `system_metrics`: publish them on the device's own thing.
    """

    def __init__(
        self,
        containers: Callable[[], Iterable[Container]],
        features: Iterable[str] = DEFAULT_FEATURES,
        *,
        mask_env: bool = False,
        system_metrics: bool = False,
        policy: Policy | None = None,
    ) -> None:
        policy = policy or Policy()
        self._list = containers
        self._session = Session()
        self._containers: dict[str, Container] = {}
        self._stale: frozenset[str] = frozenset()
        self._left_over: frozenset[str] = frozenset()
        self._load = Load()
        self._recent = Recent()
        #: The thing that request, statuses and published features belong to; it outlives a loss of the connection.
        self._owner: Thing | None = None
        self._left: dict[Thing, frozenset[str]] = {}
        self._late = LateAnswers()
        self._mask_env = mask_env
        self._metrics = Metrics(self._containers.values)
        self._software = SoftwareUpdatable(self._containers.values, self._exists, policy, mask_env=mask_env)
        self._container_feature = ContainerFeature(policy, mask_env=mask_env)
        enabled = frozenset(features)
        self._shows_containers = FACTORY in enabled
        #: In the order of registration.
        available: list[tuple[str, Feature]] = [
            (software_updatable.ID, self._software),
            (FACTORY, ContainerFactory(policy)),
            (metrics.ID, self._metrics),
        ]
        self._features = {name: feature for name, feature in available if name in enabled}
        self._system: SystemMetrics | None = None
        if system_metrics:
            from pycm.twin.system_metrics import SystemMetrics  # loaded only where it is enabled

            self._system = SystemMetrics(new_id)
        self._events = self._event_table()

    def _exists(self, container_id: str) -> bool:
        return any(container.id == container_id for container in self._list())

    def restore(self, kept: Kept) -> None:
        """Take the state of the previous agent, before the first connection."""
        self._owner = kept.thing
        self._software.restore(kept.statuses)
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
        """A message could not be sent although the connection is up: publish everything again."""
        return self._take(self._session.feed(Input.RETRY))

    def recalled(self, thing: Thing, container_ids: Iterable[str]) -> list[Decision]:
        """The result of Recall. A late one, for another thing, has no effect."""
        if thing != self.thing:
            return []
        self._stale = frozenset(container_ids)
        return self._take(self._session.feed(Input.RECALLED))

    def leave(self) -> list[Decision]:
        """The agent ends: unsubscribe."""
        listening = self._session.listening
        if self._session.feed(Input.LOST) == ():
            return []
        topics = [EDGE_RESPONSE, *([listening.commands] if listening else [])]
        if self._system and listening:
            topics.append(self._system.commands)
        return [*self._pause(), *(Unsubscribe(topic) for topic in topics)]

    def _take(self, steps: Iterable[Step]) -> list[Decision]:
        table: dict[Step, Callable[[], list[Decision]]] = {
            Step.ANNOUNCE: self._announce,
            Step.LEAVE: self._leave,
            Step.RECALL: self._recall,
            Step.REGISTER: self._register,
            Step.LISTEN: self._listen,
            Step.PAUSE: self._pause,
        }
        return [decision for step in steps for decision in table[step]()]

    def _announce(self) -> list[Decision]:
        return [Subscribe(EDGE_RESPONSE), Publish(EDGE_REQUEST, ditto.EMPTY, EDGE_REQUEST)]

    def _leave(self) -> list[Decision]:
        old, self._session.listening = self._session.listening, None
        if old is None or old == self.thing:
            return []
        return [Unsubscribe(old.commands)]

    def _recall(self) -> list[Decision]:
        """First delete the features of former things, which may still be possible."""
        thing = self._the_thing()
        if self._owner is not None and self._owner != thing:
            self._give_up(self._owner)
        self._left.pop(thing, None)
        cleared: list[Decision] = []
        for old, container_ids in self._left.items():
            gone = [*map(feature_id, sorted(container_ids)), *self._features]
            cleared += [self._delete(f"/features/{name}", old) for name in gone]
            if self._system and old.id != thing.id:
                cleared.append(self._system.delete(old.device_id))
            cleared.append(Forget(old, file=old.id != thing.id))
        return [*cleared, Recall(thing)]

    def _give_up(self, old: Thing) -> None:
        shown = self._containers.keys() | self._left_over if self._shows_containers else ()
        self._left[old] = frozenset(shown)
        while len(self._left) > MAX_LEFT:
            self._left.pop(next(iter(self._left)))
        self._owner, self._metrics.request = None, None
        self._software.statuses = {}
        self._late.take()
        self._recent.clear()
        if self._system:
            self._system.forget()

    def unsent(self, answers: Iterable[Publish]) -> None:
        """Keep unsent answers for the next registration, once: one of them may be the reason for the failure."""
        for answer in answers:
            if not answer.again and self._owner and answer.topic.startswith(self._owner.responses):
                self._late.add(answer._replace(again=True))

    def forgotten(self, thing: Thing) -> None:
        """The result of Forget: everything before it was sent."""
        self._left.pop(thing, None)

    def _listen(self) -> list[Decision]:
        thing = self._the_thing()
        if self._session.listening == thing:
            return []
        self._session.listening = thing
        return [Subscribe(thing.commands), *self._late.take()]

    def _pause(self) -> list[Decision]:
        return [Measure(None), *(self._system.end() if self._system else [])]

    def _register(self) -> list[Decision]:
        self._containers.clear()
        self._containers.update((container.id, container) for container in self._list())
        self._owner, self._left_over = self.thing, frozenset()
        decisions: list[Decision] = [self._keep()]
        for name, feature in self._features.items():
            if isinstance(feature, ContainerFactory):
                decisions += self._register_containers()
            decisions.append(self._modify(f"/features/{name}", feature.value()))
        if metrics.ID in self._features:
            decisions += self._metrics.begin(resume=True)
        if self._system and self._session.device:
            decisions += self._system.begin(self._session.device)
        return decisions

    def _register_containers(self) -> list[Decision]:
        """The stored list always names all features: it is written before one appears, and after one is deleted."""
        stale = sorted(self._stale - self._containers.keys())
        self._stale = frozenset()
        published = [self._whole(container) for container in self._containers.values()]
        deleted = [self._delete(f"/features/{feature_id(gone)}") for gone in stale]
        return [self._remember(stale), *published, *deleted, *([self._remember()] if stale else [])]

    # ── messages ──

    def message(self, topic: str, payload: bytes, *, retained: bool = False) -> list[Decision]:
        """*retained*: stored by the broker. A device stays valid; a command would run at each start of the agent."""
        if topic == EDGE_RESPONSE:
            return self._edge_response(payload)
        if retained:
            level = logging.WARNING if self._recent.is_first_retained() else logging.DEBUG
            return [ignored(topic, "a retained command; delete it at the broker", level, len(payload))]
        if self._system and self._system.is_command(topic):
            before = self._system.kept
            decisions = self._system.message(topic, payload)
            return [*decisions, *([self._keep()] if self._system.kept != before else [])]
        found = self._accept(topic, payload) if topic.startswith("command//") else []
        if not isinstance(found, Command):
            return found
        if found.operation in found.feature.once:
            return self._run_once(found, mark_of(topic, payload))
        return self._run(found, None)

    def _edge_response(self, payload: bytes) -> list[Decision]:
        try:
            found = ditto.parse(payload)
            if not isinstance(found, dict):
                raise InvalidInputError("not a JSON object")
            device = device_from(ditto.members(found))
        except InvalidInputError as error:
            return [ignored(EDGE_RESPONSE, str(error), size=len(payload))]
        return self._take(self._session.meet(device))

    def _accept(self, topic: str, payload: bytes) -> Command | list[Decision]:
        """The command, or the decisions that refuse or ignore it."""
        address = address_of(topic)
        if address is None:
            return [ignored(topic, "not the topic of a command", size=len(payload))]
        if address.is_event:
            return [ignored(topic, "an event of the backend's twin", logging.DEBUG)]
        found = accept(address, payload, self)
        if isinstance(found, Command):
            return found
        level = logging.DEBUG if found.answer else logging.WARNING
        note = Note(level, f"twin: command on {shorten(topic)} refused: {shorten(found.reason, 300)}")
        return [note, *([found.answer] if found.answer else [])]

    def _run_once(self, command: Command, mark: bytes) -> list[Decision]:
        """A copy of a command gets the answer of the first one, which may not have arrived."""
        if mark not in self._recent:
            self._recent.begin(mark)
            return self._run(command, mark)
        value = self._recent.value(mark)
        return [] if value is RUNNING else self._answer(command, self.thing, value)

    def _run(self, command: Command, mark: bytes | None) -> list[Decision]:
        """*mark*: that of a command which runs once."""
        finish = partial(self._finished, command.without_argument(), self.thing, mark)
        before = self._metrics.request
        try:
            reaction = command.feature.run(command.feature_id, command.operation, command.argument)
            if isinstance(reaction, Task):
                return [self._begin(reaction, command.size, finish)]
            begun = []
            if reaction.task:
                begun = [self._begin(reaction.task, command.size, partial(self._job_ended, mark))]
        except Problem as problem:
            return finish(problem)
        keep = [self._keep()] if self._metrics.request != before else []
        return [*reaction.decisions, *finish(reaction.value), *begun, *keep]

    def _begin(self, task: Task, size: int, finish: Callable[[Any], list[Decision]]) -> Run:
        self._load.add(size)
        return Run(task.lane, task.job, self.thing, size, finish)

    def changed(self, run: Run, name: str, value: Any) -> list[Decision]:
        """A job reports a status property. One for a former thing is not published."""
        if run.thing != self._owner:
            return []
        self._software.statuses[name] = value
        news = [self._modify(f"{STATUS_PATH}/{name}", value)] if self._session.registered else []
        return [*news, self._keep()]

    def ended(self, run: Run, outcome: Any) -> list[Decision]:
        """A job has ended with a value, or with a Problem."""
        self._load.remove(run.size)
        return run.finish(outcome)

    def _finished(
        self, command: Command, thing: Thing | None, mark: bytes | None, outcome: Any
    ) -> list[Decision]:
        if mark is not None and isinstance(outcome, Problem):
            self._recent.forget(mark)
        elif mark is not None:
            self._recent.end(mark, outcome)
        return self._answer(command, thing, outcome)

    def _job_ended(self, mark: bytes | None, succeeded: Any) -> list[Decision]:
        """The command was answered when the job began, and the job has published its end itself."""
        if mark is not None and succeeded is not True:
            self._recent.forget(mark)
        return []

    def _answer(self, command: Command, thing: Thing | None, outcome: Any) -> list[Decision]:
        """Without a session the answer waits for the next one of the same thing."""
        if isinstance(outcome, Problem):
            answer = command.refuse(outcome.without_secrets() if self._mask_env else outcome)
            if answer is None:
                subject = shorten(f"{command.feature_id} {command.operation}")
                return [Note(logging.WARNING, f"twin: {subject} failed: {shorten(outcome.masked, 300)}")]
        else:
            answer = command.answer(outcome)
        if answer is None or thing not in (self._owner, self.thing):
            return []
        if self.thing is not None:
            return [answer]
        self._late.add(answer)
        return []

    def _keep(self) -> Keep:
        machine = self._system.kept if self._system else None
        kept = Kept(self._owner, (), self._software.statuses, self._metrics.argument, machine)
        return Keep(kept.as_state())

    def feature(self, wanted: str) -> Feature | None:
        kind, colon, container_id = wanted.partition(":")
        if kind + colon == CONTAINER_PREFIX:
            shown = self._shows_containers and container_id in self._containers
            return self._container_feature if shown else None
        return self._features.get(wanted)

    # ── containers ──

    def event(self, event: Event) -> list[Decision]:
        """Published only while the features are registered: a registration begins with the list of containers."""
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
        for publish in self._events[action]:
            decisions += publish(container)
        # a start in host network mode gives the container the machine's name, without an event of its own
        renamed = before is not None and before.host_name != container.host_name
        if renamed and action not in (Action.UPDATED, Action.REMOVED):
            decisions += self._publish_config(container)
        return decisions

    def _event_table(self) -> Mapping[Action, tuple[Callable[[Container], list[Decision]], ...]]:
        """The messages of each event, in this order; within a feature it is the original's."""
        state, config = self._publish_state, self._publish_config
        return {
            **dict.fromkeys(
                (Action.PAUSED, Action.RESUMED, Action.STOPPED, Action.EXITED, Action.HEALTH), (state,)
            ),
            Action.CREATED: (self._remember_shown, self._publish_whole, self._publish_list, state),
            Action.RUNNING: (state, lambda one: self._metrics.container_runs(one.id)),
            Action.RENAMED: (lambda one: self._property(one, "name", one.name),),
            Action.UPDATED: (config,),
            Action.REMOVED: (
                self._publish_dead,
                self._publish_list,
                self._delete_whole,
                self._remember_shown,
            ),
        }

    def _publish_whole(self, container: Container) -> list[Decision]:
        return [self._whole(container)] if self._shows_containers else []

    def _publish_state(self, container: Container) -> list[Decision]:
        return self._property(container, "state", state_value(container))

    def _publish_dead(self, container: Container) -> list[Decision]:
        return self._property(container, "state", state_value(container, Status.DEAD))

    def _publish_config(self, container: Container) -> list[Decision]:
        return self._property(container, "config", self._container_feature.config_of(container))

    def _delete_whole(self, container: Container) -> list[Decision]:
        return [self._delete(f"/features/{feature_id(container.id)}")] if self._shows_containers else []

    def _publish_list(self, _: Container) -> list[Decision]:
        shown = software_updatable.ID in self._features
        return [self._modify(DEPENDENCIES_PATH, self._software.installed())] if shown else []

    def _remember_shown(self, _: Container) -> list[Decision]:
        return [self._remember()] if self._shows_containers else []

    # ── measurements ──

    def due(self, reader: str = CONTAINERS) -> Due:
        """What to sample at the end of *reader*'s period."""
        if reader == MACHINE:
            return Due(host=self._system.due()) if self._system else Due()
        return self._metrics.due() if self._session.registered else Due()

    def measured(
        self,
        samples: Sequence[ContainerMeasurements],
        host: Sequence[HostMeasurements],
        unix_seconds: int,
        reader: str = CONTAINERS,
    ) -> list[Decision]:
        """The sample that `due` requested."""
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
        """Publishing follows the device, so that there is one."""
        if (thing := self.thing) is None:
            raise RuntimeError("no device")
        return thing

    def _modify(self, path: str, value: Any) -> Publish:
        thing = self._the_thing()
        return Publish(thing.events, ditto.modify(thing, path, value), path)

    def _delete(self, path: str, thing: Thing | None = None) -> Publish:
        thing = thing or self._the_thing()
        return Publish(thing.events, ditto.delete(thing, path), path)

    def _whole(self, container: Container) -> Publish:
        path = f"/features/{feature_id(container.id)}"
        return self._modify(path, self._container_feature.value_of(container))

    def _property(self, container: Container, name: str, value: Any) -> list[Decision]:
        if not self._shows_containers:
            return []
        return [self._modify(f"/features/{feature_id(container.id)}/properties/status/{name}", value)]

    def _remember(self, more: Iterable[str] = ()) -> Remember:
        ids = [*self._containers, *more]
        return Remember(self._the_thing(), {container_id: feature_id(container_id) for container_id in ids})
