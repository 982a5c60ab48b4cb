"""What the kernel has, read back as parts: where a start, or a refused change, has to go on from.

And whether it still is what was made, for others can change it too.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.node.enforce import names
from services.node.enforce.drops import LOOSE_SETS
from services.node.enforce.parts import Chain, Element, Part, Set
from services.node.enforce.table import FRAME_CHAINS, FRAME_SETS, LAYOUT, frame
from services.node.nft.connection import Nftables
from services.node.nft.expressions import Rule
from services.node.nft.messages import Target

__all__ = ["difference", "read"]

UNREAD = (Rule((b"",)),)
"""Rules of a chain that was not read: equal to none that are wanted, so the chain is written anew."""


def read(nft: Nftables) -> Part | None:
    """The table's content behind its frame; None if there is no table, or not one that we can go on from.

    Rules are not read: they are rewritten, whatever they are.

    Raises:
        KernelError: the table can not be read, or went while it was.
    """
    if nft.table_comment(names.TABLE) != LAYOUT:
        return None
    chains, sets = set(nft.chains(names.TABLE)), nft.sets(names.TABLE)
    if not chains >= FRAME_CHAINS or any(
            name not in sets or sets[name][:2] != key[:2]
            for name, key in (*FRAME_SETS.items(), *((name, each.key) for name, each in LOOSE_SETS.items()))):
        return None
    elements: dict[Element, Target | None] = {}
    for name in FRAME_SETS:
        elements.update((Element(name, key), target) for key, target in nft.elements(names.TABLE, name).items())
    return Part(
        sets={name: Set(key, frozenset(nft.elements(names.TABLE, name))) for name, key in sets.items()
              if name not in FRAME_SETS and name not in LOOSE_SETS},
        chains={name: Chain(UNREAD) for name in chains - FRAME_CHAINS},
        elements=elements)


def difference(nft: Nftables, wanted: Part, prefixes: Sequence[str]) -> str:
    """The first thing found that is not as wanted, for people; empty if nothing is.

    Of rules only their number is compared: enough to see that somebody emptied a chain or put a rule into it.

    Raises:
        KernelError: the table went while it was read.
    """
    there = read(nft)
    if there is None:
        return f"table {names.TABLE} is gone, or another"
    chains = {**frame(prefixes), **wanted.chains}
    counts = nft.rule_counts(names.TABLE)
    if there.elements != wanted.elements:
        return "elements of " + ", ".join(sorted({e.set for e, _ in there.elements.items() ^ wanted.elements.items()}))
    for what, found, expected in (("chain", there.chains.keys(), wanted.chains.keys()),
                                  ("set", there.sets.keys(), wanted.sets.keys())):
        if found != expected:
            return f"{what} " + ", ".join(sorted(found ^ expected))
    for name, each in wanted.sets.items():
        if there.sets[name].keys != each.keys:
            return f"elements of {name}"
    changed = sorted(name for name in chains if counts[name] != len(chains[name].rules))
    return f"rules of {', '.join(changed)}" if changed else ""
