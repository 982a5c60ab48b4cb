"""Sums of use and the bars that show them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from muslin.api.ipam.v1 import ipam_pb2
from muslin.cli.ipam.bar import bar, cells, paint
from muslin.cli.ipam.table import Look
from muslin.cli.ipam.usage import NodeUse, Ranges, Usage, of_blocks, of_nodes, of_pools

counts = st.lists(st.one_of(st.integers(0, 70), st.integers(0, 2 ** 80)), min_size=4, max_size=4)


def block(cidr: str, node: str, **fields: object) -> ipam_pb2.Block:
    return ipam_pb2.Block(cidr=cidr, pool="default", node=node, size=64, **fields)  # type: ignore[arg-type]  # any field


def reservation(*cidrs: str) -> ipam_pb2.Reservation:
    return ipam_pb2.Reservation(name="r", cidrs=cidrs)


@given(counts, st.integers(4, 60))
def test_cells_fill_the_bar_and_show_everything_that_is_there(numbers: list[int], width: int) -> None:
    """All cells are given out; nothing has none; one thing never shows more than the whole allows."""
    found = cells(numbers, width)
    assert sum(found) == (width if sum(numbers) else 0)
    for number, cell in zip(numbers, found, strict=True):
        assert (cell > 0) == (number > 0)
        assert cell >= 0


@given(counts, st.integers(8, 60))
def test_cells_are_in_proportion_but_for_what_smallness_and_rounding_take(numbers: list[int], width: int) -> None:
    total = sum(numbers)
    for number, cell in zip(numbers, cells(numbers, width), strict=True):
        if total:
            assert abs(cell * total - number * width) <= 4 * total


def test_a_bar_of_each_kind() -> None:
    usage = Usage(size=20, used=10, cooling=5, reserved=4, taken=2)
    assert (usage.free, usage.parts) == (3, (10, 5, 2, 3))
    assert bar(usage, 20, Look()) == "██████████▒▒▒▒▒▚▚···"
    assert bar(usage, 20, Look(unicode=False)) == "##########~~~~~xx..."
    assert bar(Usage(), 3, Look()) == "   "


def test_one_address_of_many_is_seen_and_so_is_one_free() -> None:
    assert bar(Usage(size=65536, used=1), 10, Look(unicode=False)) == "#........."
    assert bar(Usage(size=65536, used=65535), 10, Look(unicode=False)) == "#########."


def test_a_bar_is_coloured_by_its_use_and_only_in_colour() -> None:
    for used, code in ((0, None), (79, "32"), (80, "33"), (95, "31"), (100, "31")):
        usage = Usage(size=100, used=used)
        drawn = bar(usage, 10, Look())
        assert paint(drawn, usage, Look()) == drawn
        painted = paint(drawn, usage, Look(colour=True))
        assert ("" if code is None else f"\033[{code}m█") in painted
        assert painted.count("█") == drawn.count("█")
        assert painted.endswith("\033[0m")


def test_ranges_count_overlapping_reservations_once() -> None:
    ranges = Ranges([reservation("10.0.0.0/30", "10.0.0.2"), reservation("10.0.0.0/29", "10.0.1.0/24", "fd00::/64")])
    assert [ranges.count(cidr) for cidr in ("10.0.0.0/26", "10.0.1.64/26", "10.0.2.0/26", "fd00::40/122")] == [
        8, 64, 0, 64]
    assert "10.0.0.7" in ranges
    assert "10.0.0.8" not in ranges
    assert "fd00::1" in ranges
    assert not Ranges([])


def test_what_is_reserved_and_held_is_not_counted_twice() -> None:
    """A reservation leaves what is held: of four reserved addresses one is held, so three are lost to others."""
    slots = [ipam_pb2.Slot(address="10.0.0.1", handle="n/c/e", sequence=1),
             ipam_pb2.Slot(address="10.0.0.9", handle="n/d/e", sequence=2)]
    blocks = of_blocks([block("10.0.0.0/26", "a", used=2, slots=slots)], Ranges([reservation("10.0.0.0/30")]))
    assert [use.usage for use in blocks] == [Usage(64, 2, 0, 4, 0, 1)]
    assert blocks[0].usage.free == 59
    pool = ipam_pb2.Pool(name="default", cidr="10.0.0.0/24", size=256, used=2, reserved=4)
    [use] = of_pools([pool], blocks)
    assert use.usage.free == 256 - 2 - 3


def test_pools_take_borrowed_from_their_own_blocks() -> None:
    blocks = of_blocks([block("10.0.0.0/26", "a", used=3, borrowed=2), block("10.0.0.64/26", "b", used=1, borrowed=1)],
                       Ranges([]))
    pools = [ipam_pb2.Pool(name="default", cidr="10.0.0.0/24", used=4, cooling=1),
             ipam_pb2.Pool(name="other", cidr="fd00::/48", size=2 ** 64 - 1)]
    assert [use.usage for use in of_pools(pools, blocks)] == [Usage(256, 4, 1, 0, 3, 0), Usage(2 ** 80)]


def test_nodes_sum_their_blocks_and_orphans_come_last() -> None:
    listed = [block("10.0.0.0/26", "b", used=3), block("10.0.0.64/26", "a", used=1, cooling=2),
              block("10.0.0.128/26", "b", used=64), block("10.0.0.192/26", "", used=1,
                                                          affinity=ipam_pb2.Block.AFFINITY_NONE)]
    assert of_nodes(of_blocks(listed, Ranges([]))) == [
        NodeUse("a", 1, Usage(64, 1, 2)), NodeUse("b", 2, Usage(128, 67)), NodeUse("", 1, Usage(64, 1))]
