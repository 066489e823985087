# SPDX-License-Identifier: Apache-2.0
"""Plays a vector against the twin's core alone: no sockets, no files, and time that passes when the player says so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import vector_stimuli
from vector_matching import Bindings, Seen, find_all, forbidden, missing, wrong_answer

from pycm.config.types import Policy
from pycm.model.states import Status
from pycm.twin.core import DEFAULT_FEATURES, Twin
from pycm.twin.lanes import Lanes
from pycm.twin.outbox import (
    CONTAINERS,
    Baseline,
    Decision,
    Forget,
    Measure,
    Publish,
    Recall,
    Remember,
    Run,
    Subscribe,
    Unsubscribe,
)
from support.fake_containers import FakeContainers, FakeManager
from support.fake_metrics import FakeMetrics
from support.fakes import FakeDownloads

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Mapping

#: Seconds of the vector's time after which what is missing is missing.
LIMIT = 30.0
#: How long `forbid` must hold if the vector does not say.
OBSERVE_MS = 1000
WALL_CLOCK = 1_800_000_000


class CorePlayer:
    """Carries out the core's decisions at once; `seen` is what a broker would see."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given
        self.containers = FakeContainers(given.get("containers") or [])
        self.metrics = FakeMetrics(given.get("stats") or {})
        self.core = Twin(
            self.containers.list,
            given.get("features", DEFAULT_FEATURES),
            mask_env=given.get("mask_env", False),
            policy=Policy(**given.get("policy", {})),
        )
        self.containers.subscribe(lambda event: self.carry_out(self.core.event(event)))
        self.lanes = Lanes(
            self.drive,
            self.manager(),
            self.downloads(),
            changed=lambda run, name, value: self.carry_out(self.core.changed(run, name, value)),
            ended=lambda run, outcome: self.carry_out(self.core.ended(run, outcome)),
        )
        self.seen: list[Seen] = []
        self.remembered: dict[str, list[str]] = {}
        self.now = 0.0
        self._due: float | None = None
        self._period = 0.0

    def manager(self) -> Any:
        return FakeManager(self.containers, self.given)

    def downloads(self) -> Any:
        return self

    async def fetch(self, url: str, _: int) -> bytes:
        return FakeDownloads(self.given.get("http") or {}).read(url)

    def drive(self, work: Coroutine[Any, Any, None]) -> None:
        """Run *work* to its end, without a loop: nothing that the player offers waits."""
        try:
            work.send(None)
        except StopIteration:
            return
        raise AssertionError("the job waits")

    def carry_out(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, (Publish, Subscribe, Unsubscribe)):
                payload = decision.payload if isinstance(decision, Publish) else b""
                self.seen.append(Seen(type(decision).__name__.lower(), decision.topic, payload))
            elif isinstance(decision, (Recall, Remember, Forget)):
                self._remembering(decision)
            elif isinstance(decision, Run):
                self.lanes.begin(decision)
            elif isinstance(decision, Baseline):
                self.metrics.baseline(decision.container_ids)
            elif isinstance(decision, Measure) and decision.reader == CONTAINERS:
                self._due = None if decision.period is None else self.now + decision.period
                self._period = decision.period or 0.0

    def _remembering(self, decision: Recall | Remember | Forget) -> None:
        if isinstance(decision, Recall):
            at_first = self.given.get("stored_container_ids") or []
            ids = self.remembered.get(decision.thing.id, at_first)
            self.carry_out(self.core.recalled(decision.thing, ids))
        elif isinstance(decision, Remember):
            self.remembered[decision.thing.id] = list(decision.features)
        else:
            self.core.forgotten(decision.thing)

    def advance(self, until: float) -> None:
        """Let the time pass; the timer fires as often as it is due."""
        while self._due is not None and self._due <= until:
            self.now, self._due = self._due, self._due + self._period
            due = self.core.due()
            samples = self.metrics.sample(due.containers)
            host = self.metrics.host(due.host, CONTAINERS)
            self.carry_out(self.core.measured(samples, host, WALL_CLOCK + int(self.now)))
        self.now = until

    # ── what a vector can do ──

    def prepare(self) -> None:
        if self.given.get("connected", True):
            self.carry_out(self.core.connected())
        if "edge_response" in self.given:
            self.send({"topic": "edge/thing/response", "payload": self.given["edge_response"]})
        for step in self.given.get("before") or []:
            self.step(step)
        self.seen.clear()

    def step(self, step: Any) -> None:
        if isinstance(step, str):
            self.stimulate(step)
        elif "stimulus" in step:
            self.stimulate(step["stimulus"])
        else:
            self.send(step)

    def send(self, message: Mapping[str, Any]) -> None:
        self.carry_out(self.core.message(message["topic"], payload_of(message)))

    def stimulate(self, words: str) -> None:
        stimulus = vector_stimuli.parse(words, self.given)
        one = stimulus.container
        containers = self.containers
        if stimulus.kind == "connect":
            self.carry_out(self.core.connected())
        elif stimulus.kind in ("lose", "reconnect"):
            self.carry_out(self.core.disconnected())
            if stimulus.kind == "reconnect":
                self.carry_out(self.core.connected())
        elif stimulus.kind == "create":
            containers.create_now(stimulus.given)
        elif stimulus.kind == "exit":
            containers.exit_now(one, stimulus.code, oom=stimulus.oom)
        elif stimulus.kind == "rename":
            containers.rename_now(one, stimulus.text)
        elif stimulus.kind in ("pause", "resume"):
            containers.freeze_now(one, Status.PAUSED if stimulus.kind == "pause" else Status.RUNNING)
        else:
            simple = {
                "start": containers.run_now,
                "stop": containers.stop_now,
                "remove": containers.remove_now,
            }
            simple[stimulus.kind](one)


def payload_of(message: Mapping[str, Any]) -> bytes:
    raw = message.get("payload_raw")
    if raw is not None:
        return raw.encode("utf-8", "surrogateescape")
    return json.dumps(message["payload"], separators=(",", ":")).encode() if "payload" in message else b""


def play(vector: Mapping[str, Any]) -> str:
    """ "" if the vector holds, else what is wrong."""
    player = CorePlayer(vector["given"])
    player.prepare()
    begin = player.now
    if vector.get("send"):
        player.send(vector["send"])
    if stimulus := vector["given"].get("stimulus"):
        player.stimulate(stimulus)
    while find_all(vector, player.seen) is None and player.now - begin < LIMIT:
        player.advance(player.now + 0.5)
    player.advance(max(player.now, begin + vector["given"].get("observe_ms", OBSERVE_MS) / 1000))
    return verdict(vector, player.seen)


def verdict(vector: Mapping[str, Any], seen: list[Seen]) -> str:
    bindings: Bindings | None = find_all(vector, seen)
    if bindings is None:
        return _not_found(vector, seen)
    if bad := forbidden(vector, seen, bindings):
        return f"forbidden: {bad[0]}"
    return ""


def _not_found(vector: Mapping[str, Any], seen: list[Seen]) -> str:
    lacking = [json.dumps(entry) for entry in missing(vector, seen)]
    wrong = wrong_answer(vector, seen)
    lines = [f"missing: {entry}" for entry in lacking] or ["all was seen, but not in this order or together"]
    if wrong:
        lines.append(f"the answer was: {wrong}")
    lines += [f"seen: {item}" for item in seen[:20]]
    return "\n  ".join(lines)
