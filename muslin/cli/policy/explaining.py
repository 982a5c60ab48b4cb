"""`muslin policy explain`: what decides between two sides, over all addresses and ports that were asked about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from muslin.api.policy.v1 import policy_pb2
from muslin.cli.ipam.table import Column, Look, table
from muslin.cli.policy.space import PROTOCOLS, Side, Space, Span, ranges
from muslin.cli.policy.world import World
from muslin.errors import Exhausted, FailedPrecondition

__all__ = ["Answer", "Asked", "answers", "plain", "shown", "verdict"]

MOST_FLOWS = 50_000
"""Flows that one question may come to: some seconds of work."""

Explain = Callable[[Sequence[policy_pb2.Flow]], Awaitable[list[policy_pb2.Explanation]]]
"""What answers: the policy service, or `engine.Judge`."""

_VERDICTS: Mapping[int, str] = {policy_pb2.VERDICT_ALLOW: "allow", policy_pb2.VERDICT_DENY: "deny"}
_DIRECTIONS: Mapping[int, str] = {policy_pb2.DIRECTION_INGRESS: "ingress", policy_pb2.DIRECTION_EGRESS: "egress"}
_COLUMNS = (Column("ENDPOINT"), Column("DIRECTION"), Column("TIER"), Column("POLICY", shrink=True, least=20),
            Column("RULE"), Column("VERDICT"), Column("WRITTEN AT", shrink=True, least=20))


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as it was written. Without a port all are meant, without a protocol TCP; without both, all of both."""

    source: str
    destination: str
    port: int | None = None
    protocol: str = ""

    def spans(self, space: Space) -> list[Span]:
        """The ports that are asked about, in pieces."""
        if self.port is not None:
            return [Span(self.protocol or "TCP", self.port, self.port)]
        return space.spans((self.protocol,) if self.protocol else PROTOCOLS)


@dataclass(frozen=True, slots=True)
class Answer:
    """Flows that are decided alike, and what decides them."""

    sources: tuple[Side, ...]
    destinations: tuple[Side, ...]
    spans: tuple[Span, ...]
    explanation: policy_pb2.Explanation
    family: str = ""
    """IPv4 or IPv6, if the other was asked about, too, and is decided otherwise."""

    @property
    def flows(self) -> str:
        """The flows, in a line."""
        family = f" over {self.family}" if self.family else ""
        return f"{ranges(self.sources)} -> {ranges(self.destinations)}  {_ports(self.spans)}{family}"

    @property
    def families(self) -> list[int]:
        """Versions of IP that it is about."""
        return sorted({piece.version for piece in (*self.sources, *self.destinations)})

    @property
    def verdict(self) -> str:
        """What becomes of them."""
        return verdict(self.explanation.verdict)


async def answers(asked: Asked, space: Space, explain: Explain) -> list[Answer]:
    """Everything that was asked, grouped by what decides it.

    Raises:
        InvalidArgument: a side is not what it should be.
        NotFound: there is no such pod.
        FailedPrecondition: the two sides have no addresses of one family.
        Exhausted: there are too many distinctions to ask about.
    """
    sources, destinations = space.side("FROM", asked.source), space.side("TO", asked.destination)
    pairs = [(a, b) for a in sources for b in destinations if not (a.version and b.version and a.version != b.version)]
    if not pairs:
        raise FailedPrecondition(f"{asked.source} and {asked.destination} have no addresses of one family")
    spans = asked.spans(space)
    if len(pairs) * len(spans) > MOST_FLOWS:
        raise Exhausted(f"{len(pairs) * len(spans)} flows would have to be judged, more than {MOST_FLOWS}; "
                        "ask about a smaller CIDR, or name --port")
    asked_flows = [policy_pb2.Flow(source=_peer(a), destination=_peer(b), protocol=span.protocol, port=span.first)
                   for a, b in pairs for span in spans]
    found = iter(await explain(asked_flows))
    grouped = _grouped([[Answer((a,), (b,), (span,), next(found)) for span in spans] for a, b in pairs])
    if len({version for answer in grouped for version in answer.families}) < 2:
        return grouped
    return [replace(answer, family=f"IPv{answer.families[0]}") if len(answer.families) == 1 else answer
            for answer in grouped]


def _grouped(pairs: Iterable[Iterable[Answer]]) -> list[Answer]:
    """Answers about each pair of pieces merged: over ports, over sources, over destinations, over families.

    Pods stay for themselves. Merged is only what is decided alike for every combination of the parts.
    """
    by_ports = [answer for pair in pairs for answer in _merge(pair, lambda answer: ())]
    by_source = _merge(by_ports, lambda answer: (answer.spans, answer.sources[0].pod or None, answer.destinations))
    by_both = _merge(by_source, lambda answer: (answer.spans, answer.sources, answer.destinations[0].pod or None))
    return _merge(by_both, _pods)


def _pods(answer: Answer) -> object:
    """What is to be told apart at last: two pods by name, all else by address."""
    sides = answer.sources[0].pod, answer.destinations[0].pod
    return (answer.spans, *(sides if all(sides) else (answer.sources, answer.destinations)))


def _merge(found: Iterable[Answer], same: Callable[[Answer], object]) -> list[Answer]:
    """One for all that are decided alike and have the same of `same`."""
    groups: dict[object, Answer] = {}
    for answer in found:
        key = _decision(answer.explanation), same(answer)
        held = groups.get(key)
        groups[key] = answer if held is None else Answer(
            _joined(held.sources, answer.sources), _joined(held.destinations, answer.destinations),
            _joined(held.spans, answer.spans), held.explanation)
    return list(groups.values())


def _joined(first: tuple[Any, ...], second: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def _decision(explanation: policy_pb2.Explanation) -> object:
    """What two explanations share if they are one decision; sentences name the one flow, and do not count."""
    return explanation.verdict, tuple((step.endpoint, step.direction, step.tier, step.policy, step.rule, step.verdict)
                                      for step in explanation.steps)


def _peer(piece: Side) -> policy_pb2.Peer:
    return policy_pb2.Peer(address=piece.address) if piece.version else policy_pb2.Peer(pod=piece.pod)


def verdict(number: int) -> str:
    """A verdict in a word."""
    return _VERDICTS.get(number, "undecided")


def shown(found: Sequence[Answer], world: World, look: Look) -> str:
    """The path of each decision; of a single flow the reasons, too."""
    single = len(found) == 1 and _single(found[0])
    return "\n\n".join(_shown(answer, world, look, reasons=single) for answer in found)


def _shown(answer: Answer, world: World, look: Look, *, reasons: bool) -> str:
    explanation = answer.explanation
    word = {"allow": "allowed", "deny": "denied"}.get(answer.verdict, "undecided: neither side is an endpoint")
    lines = [f"{answer.flows}: {look.paint(word, _colour(word))}"]
    if explanation.steps:
        lines.append(table(_COLUMNS, [(
            step.endpoint, _DIRECTIONS.get(step.direction, "-"), step.tier or "-", step.policy or "-",
            step.rule or ("(end of tier)" if step.tier else "-"), verdict(step.verdict), _written(step, world) or "-",
        ) for step in explanation.steps], look))
    if reasons:
        lines += [f"  {step.reason}" for step in explanation.steps]
    return "\n".join(lines)


def _single(answer: Answer) -> bool:
    """Whether an answer is of one flow, so that the sentences are about it and not about an example."""
    sides = (*answer.sources, *answer.destinations)
    return (len(sides) == 2 * len(answer.families) and all(piece.first == piece.last for piece in sides)
            and len(answer.spans) == 1 and answer.spans[0].first == answer.spans[0].last)


def _colour(word: str) -> str:
    return {"allowed": "32", "denied": "31"}.get(word, "2")


def _written(step: policy_pb2.Step, world: World) -> str:
    """File and line that decided, as far as they are known."""
    owner = world.owner(step.policy, step.tier)
    if owner and owner.origin and (line := owner.line_of(step.rule)):
        return f"{owner.origin.file}:{line}"
    return step.origin


def plain(found: Iterable[Answer], world: World) -> list[dict[str, object]]:
    """The same for programs. Lines are null where the file is not there, or not as it was applied."""
    return [{
        "from": ranges(answer.sources).split(), "to": ranges(answer.destinations).split(), "families": answer.families,
        "ports": [{"protocol": span.protocol, "first": span.first, "last": span.last}
                  for span in _merged(answer.spans)],
        "verdict": answer.verdict,
        "steps": [_step(step, world) for step in answer.explanation.steps],
    } for answer in found]


def _step(step: policy_pb2.Step, world: World) -> dict[str, object]:
    owner = world.owner(step.policy, step.tier)
    return {"endpoint": step.endpoint, "direction": _DIRECTIONS.get(step.direction, ""), "tier": step.tier,
            "policy": step.policy, "rule": step.rule, "verdict": verdict(step.verdict), "reason": step.reason,
            "object": owner.label if owner else None, "origin": step.origin,
            "file": owner.origin.file if owner and owner.origin else None,
            "line": (owner.line_of(step.rule) or None) if owner else None}


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Neighbouring ranges as one."""
    result: list[Span] = []
    for span in sorted(spans, key=lambda span: (PROTOCOLS.index(span.protocol), span.first)):
        if result and result[-1].protocol == span.protocol and result[-1].last + 1 == span.first:
            result[-1] = Span(span.protocol, result[-1].first, span.last)
        else:
            result.append(span)
    return result


def _ports(spans: Iterable[Span]) -> str:
    """Ports for people: `TCP 80 443-444, UDP all`."""
    written: dict[str, list[str]] = {}
    for span in _merged(spans):
        whole = (span.first, span.last) == (1, 65535)
        written.setdefault(span.protocol, []).append(
            "all" if whole else str(span.first) if span.first == span.last else f"{span.first}-{span.last}")
    return ", ".join(f"{protocol} {' '.join(listed)}" for protocol, listed in written.items())
