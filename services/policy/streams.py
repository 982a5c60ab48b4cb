"""What nodes have been sent and have acknowledged: for their status, and to go on from after a connection was lost."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from services.policy.hub import Hub
from services.policy.program import EMPTY, Program, Update

KEPT_SECONDS = 900.0
"""How long a node that has gone is remembered; then it gets a snapshot."""
KEPT_NODES = 5000
"""Nodes that are remembered after they have gone, the latest ones."""
_UNACKNOWLEDGED = 4
"""Programs of messages under way that are kept. A node that is further behind goes on from an older one."""
_REMEMBERED = 2 * _UNACKNOWLEDGED
"""Programs that are kept of a node that has gone: its last stream may have ended before it got anything."""
_TIMES = 64
"""Messages whose time of sending is kept until they are acknowledged."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A message under way: the program that it leads to."""

    revision: int
    program: Program


class Stream:
    """One subscription: what was sent on it, and what of that is in the node's kernel."""

    def __init__(self, hub: Hub, node: str, since: tuple[str, Program] | None, names: Callable[[int], str],
                 clock: Callable[[], float]) -> None:
        """`since` is what the node has and what stands for it, None if that is not known; `names` names revisions."""
        self.node = node
        self.resumed = since is not None
        self.revision = self.acknowledged = 0
        self.enforced = since[1] if since else None
        """The last program that is known to be in the node's kernel."""
        self._hub, self._since, self._names, self._clock = hub, since, names, clock
        self._began = clock()
        self._times: deque[tuple[int, float]] = deque(maxlen=_TIMES)
        self._sent: deque[Sent] = deque(maxlen=_UNACKNOWLEDGED)
        self._lost: tuple[int, float] | None = None  # the oldest message whose time is no longer in `_times`
        self.subscription = hub.subscribe(node, self.enforced)

    @property
    def resume(self) -> str:
        """What stands for the program after the last message."""
        return self._names(self.revision)

    @property
    def age(self) -> float:
        """Seconds since it began."""
        return self._clock() - self._began

    @property
    def lag(self) -> float:
        """Age in seconds of the oldest message that is not acknowledged; 0 if all are."""
        oldest = self._lost or (self._times[0] if self._times else None)
        return self._clock() - oldest[1] if oldest else 0.0

    @property
    def pending(self) -> bool:
        """Whether there is more than was sent."""
        return self.subscription.changed.is_set()

    def next(self) -> tuple[Update, str] | None:
        """What there is to send now, and what kind of message that is: `snapshot`, `resumed`, `delta`, `merged`."""
        update, kind = self._hub.take(self.subscription)
        if kind in ("delta", "merged") and not update:  # changes that cancelled each other out
            return None
        self.revision += 1
        if len(self._times) == _TIMES and self._lost is None:
            self._lost = self._times[0]
        self._times.append((self.revision, self._clock()))
        self._sent.append(Sent(self.revision, self.subscription.sent or EMPTY))
        return update, kind

    def acknowledge(self, revision: int) -> list[float]:
        """Note that a revision is in the node's kernel. The ages in seconds of the messages that this acknowledges."""
        if not self.acknowledged < revision <= self.revision:
            return []
        self.acknowledged = revision
        while self._sent and self._sent[0].revision <= revision:
            self.enforced = self._sent.popleft().program
        ages: list[float] = []
        while self._times and self._times[0][0] <= revision:
            ages.append(self._clock() - self._times.popleft()[1])
        if self._lost and self._lost[0] <= revision:
            self._lost = None
        return ages

    def programs(self) -> dict[str, Program]:
        """What the node may have in its kernel, by what stands for it; the latest last."""
        found = dict([self._since]) if self._since and not self.acknowledged else {}
        if self.enforced is not None and self.acknowledged:
            found[self._names(self.acknowledged)] = self.enforced
        found.update((self._names(sent.revision), sent.program) for sent in self._sent)
        return found

    def close(self) -> None:
        """Let go of the subscription."""
        self._hub.unsubscribe(self.subscription)


@dataclass(frozen=True, slots=True)
class _Gone:
    since: float
    programs: dict[str, Program]


class Streams:
    """The streams of all nodes, and what those that have gone had."""

    def __init__(self, hub: Hub, clock: Callable[[], float] = time.monotonic) -> None:
        self._hub, self._clock = hub, clock
        self._epoch = secrets.token_hex(8)  # another replica, or this one before it was restarted, has another
        self._number = 0
        self._open: dict[str, list[Stream]] = {}
        self._gone: OrderedDict[str, _Gone] = OrderedDict()

    def open(self, node: str, resume: str = "") -> Stream:
        """Begin a stream; it goes on from the program that `resume` stands for, if that is still known."""
        self._forget()
        self._number += 1
        name = f"{self._epoch}:{self._number}"
        program = self._find(node, resume)
        stream = Stream(self._hub, node, (resume, program) if program is not None else None,
                        lambda revision: f"{name}:{revision}", self._clock)
        self._open.setdefault(node, []).append(stream)
        return stream

    def close(self, stream: Stream) -> None:
        """End a stream, and remember what its node has."""
        stream.close()
        others = self._open[stream.node]
        others.remove(stream)
        if not others:
            del self._open[stream.node]
        before = self._gone.pop(stream.node, None)
        programs = {**(before.programs if before else {}), **stream.programs()}
        self._gone[stream.node] = _Gone(self._clock(), dict(list(programs.items())[-_REMEMBERED:]))
        self._forget()

    def of(self, node: str) -> Stream | None:
        """The latest stream of a node."""
        return self._open[node][-1] if node in self._open else None

    def nodes(self) -> set[str]:
        """Nodes that are subscribed."""
        return set(self._open)

    def _find(self, node: str, resume: str) -> Program | None:
        if not resume:
            return None
        for stream in self._open.get(node, ()):  # its loss may not have been noticed here yet
            if (program := stream.programs().get(resume)) is not None:
                return program
        gone = self._gone.get(node)
        return gone.programs.get(resume) if gone else None

    def _forget(self) -> None:
        oldest = self._clock() - KEPT_SECONDS
        while self._gone and (len(self._gone) > KEPT_NODES or next(iter(self._gone.values())).since < oldest):
            self._gone.popitem(last=False)
