"""Giving: an attachment gets what it asked for, of every family, or nothing."""

from __future__ import annotations

from muslin.errors import AlreadyExists, Corrupt, Exhausted, InvalidArgument
from muslin.etcd import keys
from muslin.rpc import require_own
from services.ipam import blocks, pools, ranges, releasing, sources, specific, store
from services.ipam.blocks import Block
from services.ipam.handles import Address, Handle, Request
from services.ipam.kept import pod_of
from services.ipam.outcomes import Damaged, Granted
from services.ipam.pools import Pool
from services.ipam.step import Step


def assign(step: Step, request: Request) -> Granted | Damaged:
    """Give the attachment its addresses, the same again if it has some.

    Raises:
        Exhausted, AlreadyExists, InvalidArgument, FailedPrecondition, Denied: why that is not possible, as far
            as is known.
        Wait: a block is being written.
    """
    known, key = step.view.handle(request.identity), store.handle_key(request.identity)
    if known.revision and known.value is None:
        return Damaged()
    step.expect[key] = known.revision
    if known.value and not known.value.kept_until_ms:
        if request.bound:
            require_own(request.handle.node, known.value.node, f"attachment {request.identity}")
        _same(known.value, request)
        # Written again, unchanged: who was about to collect it, as nobody used it, sees that somebody is about to.
        step.writes[key] = store.encode(known.value)
        return Granted(known.value, new=False)
    node = request.handle.node
    if node in step.view.draining:
        raise Exhausted(f"no address for {request.identity}: node {node} is drained of addresses and gets no new one; "
                        f"muslin node drain-ipam {node} --undo ends that")
    if (reserved := step.view.reservations()).revision and reserved.value is None:
        raise Corrupt("the record of reservations is damaged, so it is not known which addresses may be given; "
                      "see muslin ipam check")
    step.expect[keys.IPAM_RESERVATIONS] = reserved.revision
    asked = {ranges.number(address)[1]: address for address in request.addresses}
    wanted = tuple(sorted({*request.families, *asked})) if asked else request.families
    given = _returned(step, request, wanted, asked) if known.revision or step.view.kept else {}
    for family in wanted:
        if family not in given:
            given[family] = _new(step, request, family, asked.get(family))
    if any(block.node != node for address in given.values() if (block := step.block(address.block))):
        step.rests_on(keys.ipam_node(node))  # that it is not drained: of its own blocks each says so itself
    new = request.handle
    handle = Handle(new.network, new.container_id, new.ifname, new.node, new.namespace, new.pod,
                    tuple(given[family] for family in wanted), new.created_ms or step.view.clock.wall_ms(),
                    request.sticky_seconds)
    step.writes[key] = store.encode(handle)
    return Granted(handle, new=True)


def _same(held: Handle, request: Request) -> None:
    """Asking again is answered with what was given; asking for something else is an error, and changes nothing."""
    has = tuple(address.address for address in held.addresses)
    if lacking := [address for address in request.addresses if address not in has]:
        raise AlreadyExists(f"{request.identity} holds {', '.join(has)} already, and not {', '.join(lacking)}; "
                            "delete the attachment first")
    families = {ranges.number(address)[1] for address in has}
    if not request.addresses and (missing := set(request.families) - families):
        raise AlreadyExists(f"{request.identity} holds {', '.join(has)} already, and no address of IPv{min(missing)}; "
                            "delete the attachment first")


def _new(step: Step, request: Request, family: int, address: str | None) -> Address:
    if address is not None:
        block, ordinal, pool = specific.choose(step, request, address)
    else:
        block, ordinal, pool = sources.choose(step, request, family)
    after = blocks.take(block, ordinal, request.identity)
    return _given(step, pool, after, ordinal)


def _given(step: Step, pool: Pool, after: Block, ordinal: int) -> Address:
    step.change(after)
    step.rests_on(keys.pool(pool.name))
    step.pools.add(pool.name)
    return Address(blocks.address(after, ordinal), after.cidr, after.sequence)


def _returned(step: Step, request: Request, wanted: tuple[int, ...], asked: dict[int, str]) -> dict[int, Address]:
    """What was kept for the pod goes over to the new attachment; what of it is not wanted any more is freed."""
    handle = request.handle
    identity = handle.identity if step.expect[store.handle_key(handle.identity)] else None  # its own, kept
    if identity is None and handle.pod:
        identity = step.view.kept.of(pod_of(handle), handle.ifname)
    kept = step.view.handle(identity).value if identity else None
    if identity is None or kept is None or not kept.kept_until_ms:
        return {}
    key = store.handle_key(identity)
    step.rests_on(key)
    step.writes[key] = None
    given: dict[int, Address] = {}
    for held in kept.addresses:
        family = ranges.number(held.address)[1]
        step.rests_on(keys.block(held.block))
        if (block := step.block(held.block)) is None or (ordinal := blocks.ordinal_of(block, held.address)) is None:
            continue
        if family in wanted and asked.get(family, held.address) == held.address and family not in given and (
                pool := _may_return(step, request, held, family, block)):
            if after := blocks.hand_over(block, ordinal, identity, held.sequence, handle.identity):
                given[family] = _given(step, pool, after, ordinal)
        else:
            releasing.give_back(step, block.cidr, ordinal, held.sequence, identity, kept,
                                step.view.kept.seconds(identity))
    return given


def _may_return(step: Step, request: Request, held: Address, family: int, block: Block) -> Pool | None:
    """The pool of a kept address, if it may be given now."""
    pool = step.view.pool(block.pool).value
    if pool is None or not pools.serves(pool) or block.leaving:
        return None
    if not request.addresses and family in request.pools and pool.name not in request.pools[family]:
        return None
    ordinal = blocks.ordinal_of(block, held.address)
    return None if ordinal in step.view.index.reserved.ordinals(block.cidr) else pool


def check(request: Request) -> Request:
    """Raise InvalidArgument if a request can not be served by any state, naming the field."""
    families = [ranges.number(address)[1] for address in request.addresses]
    if len(set(families)) != len(families):
        raise InvalidArgument(f"addresses {', '.join(request.addresses)}: at most one of a family can be asked for")
    if not set(request.families) <= {4, 6}:
        raise InvalidArgument(f"families {list(request.families)} must be of 4 and 6")
    if not request.families and not request.addresses:
        raise InvalidArgument("families: ask for 4, 6 or both")
    return request
