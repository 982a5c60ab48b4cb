"""A block gives each address to one holder, forgets none, and gives the one that was free longest."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from muslin.etcd import keys
from services.ipam import blocks, store
from services.ipam.blocks import Block, Held
from tests.support import ipam_invariants

EMPTY = Block("10.0.0.64/29", "pool", "node")


def fill(block: Block, count: int) -> Block:
    for number in range(count):
        taken = blocks.assign(block, f"net/c{number}/eth0")
        assert taken is not None
        block = taken[0]
    return block


def test_addresses_come_in_order_and_then_the_one_that_was_freed_first() -> None:
    block = fill(EMPTY, 8)
    for ordinal in (5, 2):
        freed = blocks.release(block, ordinal, f"net/c{ordinal}/eth0", ordinal + 1)
        assert freed is not None
        block = freed
    assert list(blocks.free(block)) == [5, 2]
    taken = blocks.assign(block, "net/x/eth0")
    assert taken is not None
    assert (blocks.address(taken[0], taken[1]), taken[1]) == ("10.0.0.69", 5)


def test_a_freed_address_is_not_given_while_others_are_fresh() -> None:
    freed = blocks.release(fill(EMPTY, 1), 0, "net/c0/eth0", 1)
    assert freed is not None
    assert list(blocks.free(freed)) == [1, 2, 3, 4, 5, 6, 7, 0]


def test_a_full_block_gives_nothing() -> None:
    assert blocks.assign(fill(EMPTY, 8), "net/x/eth0") is None


@pytest.mark.parametrize(("handle", "sequence"), [("net/other/eth0", 1), ("net/c0/eth0", 2)])
def test_only_the_very_assignment_is_released(handle: str, sequence: int) -> None:
    """A late release by an earlier holder, or of an earlier assignment to the same holder, frees nothing."""
    assert blocks.release(fill(EMPTY, 1), 0, handle, sequence) is None


def test_ordinals_and_addresses_of_both_families() -> None:
    assert blocks.ordinal_of(EMPTY, "10.0.0.71") == 7
    assert blocks.ordinal_of(EMPTY, "10.0.0.72") is None
    assert blocks.ordinal_of(EMPTY, "fd00::1") is None
    six = Block("fd00::/122", "pool", "node")
    assert (blocks.size(six), blocks.address(six, 63), blocks.ordinal_of(six, "fd00::3f")) == (64, "fd00::3f", 63)
    with pytest.raises(IndexError):
        blocks.address(EMPTY, 8)


@pytest.mark.parametrize("damaged", [
    Block("10.0.0.1/29", "p", "n"),
    Block("10.0.0.0/29", "p", "n", fresh=9),
    Block("10.0.0.0/29", "p", "n", fresh=2, released=(0, 0, 1)),
    Block("10.0.0.0/29", "p", "n", fresh=2, released=(0,)),
    Block("10.0.0.0/29", "p", "n", 1, 1, {0: Held("a/b/c", 1)}, (0,)),
    Block("10.0.0.0/29", "p", "n", 1, 0, {0: Held("a/b/c", 1)}),
    Block("10.0.0.0/29", "p", "n", 1, 1, {0: Held("a/b/c", 2)}),
    Block("10.0.0.0/29", "p", "n", 2, 2, {0: Held("a/b/c", 1), 1: Held("a/b/d", 1)}),
    Block("10.0.0.0/29", "p", "n", 1, 1, {0: Held("", 1)}),
])
def test_damage_is_found(damaged: Block) -> None:
    assert blocks.problems(damaged)


class BlockMachine(RuleBasedStateMachine):
    """Any order of assigning, releasing and repeating old releases, against a plain dictionary."""

    assignments = Bundle("assignments")

    def __init__(self) -> None:
        super().__init__()
        self.block = Block("10.0.0.64/29", "pool", "node")
        self.owner: dict[int, tuple[str, int]] = {}
        self.queue = list(range(8))

    @rule(target=assignments, name=st.integers(0, 4))
    def assign(self, name: int) -> tuple[int, str, int] | None:
        handle = f"net/c{name}/eth0"
        taken = blocks.assign(self.block, handle)
        assert (taken is None) == (not self.queue)
        if taken is None:
            return None
        self.block, ordinal = taken
        assert ordinal == self.queue.pop(0)
        assert ordinal not in self.owner, "an address was given while it was held"
        self.owner[ordinal] = handle, self.block.sequence
        return ordinal, handle, self.block.sequence

    @rule(assignment=assignments)
    def release(self, assignment: tuple[int, str, int] | None) -> None:
        """Possibly long after the address went to somebody else."""
        if assignment is None:
            return
        ordinal, handle, sequence = assignment
        after = blocks.release(self.block, ordinal, handle, sequence)
        assert (after is not None) == (self.owner.get(ordinal) == (handle, sequence))
        if after is not None:
            self.block = after
            del self.owner[ordinal]
            self.queue.append(ordinal)

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert self.owner == {o: (h.handle, h.sequence) for o, h in self.block.held.items()}
        assert self.queue == list(blocks.free(self.block))
        assert blocks.used(self.block) + blocks.available(self.block) == blocks.size(self.block)

    @invariant()
    def is_well_formed(self) -> None:
        assert blocks.problems(self.block) == ()
        assert list(ipam_invariants._ill_formed(json.loads(store.encode(self.block)))) == []

    @invariant()
    def survives_the_store(self) -> None:
        assert self.block == store.decode(Block, keys.block(self.block.cidr), store.encode(self.block))


TestBlockMachine = BlockMachine.TestCase


@given(ordinal=st.integers(0, 7), change=st.sampled_from(["held", "released", "fresh"]))
def test_no_damage_goes_unseen_by_either_checker(ordinal: int, change: str) -> None:
    """The service's own check and the tests' agree on blocks with one thing wrong."""
    block = fill(EMPTY, 4)
    for freed in (1, 3):
        block = blocks.release(block, freed, f"net/c{freed}/eth0", freed + 1) or block
    if change == "held":
        block = msgspec.structs.replace(block, held={**block.held, ordinal: Held("net/new/eth0", block.sequence)})
        changed = ordinal not in (0, 2)  # these were held before
    elif change == "released":
        block, changed = msgspec.structs.replace(block, released=(*block.released, ordinal)), True
    else:
        block, changed = msgspec.structs.replace(block, fresh=ordinal), ordinal != 4
    assert changed == bool(blocks.problems(block))
    assert changed == bool(list(ipam_invariants._ill_formed(json.loads(store.encode(block)))))
