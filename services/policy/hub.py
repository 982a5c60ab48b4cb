"""Where events of all sources meet, and programs are handed out to the nodes that are subscribed.

Events are gathered and compiled together at the next turn of the event loop, so a burst costs one compilation. Nothing
is compiled before every source has told all it has: a program made of half the state would be poorer than the one that
a node has from before, and a poorer program can be an open one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping

from services.policy import metrics
from services.policy.engine import Engine
from services.policy.events import Event
from services.policy.explain import View
from services.policy.program import EMPTY, Program, Update, diff


class Subscription:
    """One node's hold on its program. What was not yet fetched is one pending difference, however much happened."""

    def __init__(self, node: str, since: Program | None) -> None:
        """`since` is the program that the node has already, None if that is not known."""
        self.node = node
        self.changed = asyncio.Event()
        self.sent = since
        """The program as of what was last taken."""
        self._begun = False
        self._only: Update | None = None  # what has changed since `sent`, while that is a single update
        self._updates = 0

    def push(self, update: Update) -> None:
        """Note an update of the node's program."""
        self._updates += 1
        self._only = update if self._updates == 1 else None
        self.changed.set()

    def take(self, program: Program) -> tuple[Update, str]:
        """What leads to the present program from what was taken before, and what kind of message that is."""
        self.changed.clear()
        if self.sent is None:
            update, kind = diff(EMPTY, program), "snapshot"
        elif not self._begun:
            update, kind = diff(self.sent, program), "resumed"
        elif self._only is not None:
            update, kind = self._only, "delta"
        else:
            update, kind = diff(self.sent, program), "merged"
        self.sent, self._begun, self._only, self._updates = program, True, None, 0
        return update, kind


class Hub:
    """Sources put events in; nodes and explanations take programs out. Belongs to one event loop."""

    def __init__(self, sources: Iterable[str]) -> None:
        self.ready = asyncio.Event()
        """Set for good once all sources are complete and compiled."""
        self._engine = Engine()
        self._missing = set(sources)
        self._pending: list[Event] = []
        self._scheduled = False
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._view = View()

    @property
    def missing(self) -> str:
        """The sources that are not complete yet, for people."""
        return ", ".join(sorted(self._missing))

    def put(self, events: Iterable[Event]) -> None:
        """Take events in; they are compiled soon."""
        self._pending.extend(events)
        self._schedule()

    def complete(self, source: str) -> None:
        """Say that a source has told all it has; repeating it is free."""
        if source in self._missing:
            self._missing.remove(source)
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and not self._missing:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        self.flush()

    def flush(self) -> None:
        """Compile what is pending now, if all sources are complete."""
        if self._missing:
            return
        if self._pending:
            events, self._pending = self._pending, []
            began = time.perf_counter()
            updates = self._engine.handle(events)
            metrics.COMPILE_SECONDS.observe(time.perf_counter() - began)
            metrics.EVENTS.inc(len(events))
            self._publish(updates)
        self.ready.set()

    def _publish(self, updates: dict[str, Update]) -> None:
        for kind, count in self._engine.counts().items():
            metrics.STATE.labels(kind).set(count)
        for node, update in updates.items():
            for subscription in self._subscriptions.get(node, ()):
                subscription.push(update)

    def subscribe(self, node: str, since: Program | None = None) -> Subscription:
        """Begin to follow a node's program.

        The first thing to take is the whole of it, or what has changed of it `since`.
        """
        subscription = Subscription(node, since)
        self._subscriptions.setdefault(node, set()).add(subscription)
        subscription.changed.set()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End that."""
        others = self._subscriptions[subscription.node]
        others.discard(subscription)
        if not others:
            del self._subscriptions[subscription.node]

    def subscribed(self, node: str) -> bool:
        """Whether a node is followed by anybody."""
        return node in self._subscriptions

    def take(self, subscription: Subscription) -> tuple[Update, str]:
        """What a subscription has not seen yet; see `Subscription.take`."""
        return subscription.take(self._engine.program(subscription.node))

    @property
    def programs(self) -> Mapping[str, Program]:
        """The present programs by node; nodes without endpoints have none."""
        self.flush()
        return self._engine.programs

    def view(self) -> View:
        """The present programs, for explanations; good until the event loop goes on."""
        self.flush()
        self._view.follow(self._engine.programs)
        return self._view
