"""The log: lines keep their order and their request, and none is lost where it matters."""

from __future__ import annotations

import asyncio
import io
import logging
import subprocess
import sys
import threading

import pytest

from muslin import log

HEADER = "00-{:032x}-{:016x}-01"


@pytest.fixture
def written() -> tuple[logging.Logger, io.StringIO]:
    """A logger of its own and what it wrote."""
    stream = io.StringIO()
    handler = log.Deferred(stream)
    handler.setFormatter(log.Formatter("svc"))
    logger = logging.Logger("here")
    logger.addHandler(handler)
    return logger, stream


async def test_a_turns_lines_are_written_when_it_is_over(written: tuple[logging.Logger, io.StringIO]) -> None:
    """An answer that is sent in the turn does not wait for them."""
    logger, stream = written
    logger.info("one %s", 1)
    logger.info("two")
    assert stream.getvalue() == ""
    await asyncio.sleep(0)
    assert [line.rsplit(": ", 1)[1] for line in stream.getvalue().splitlines()] == ["one 1", "two"]


async def test_a_line_keeps_its_own_request(written: tuple[logging.Logger, io.StringIO]) -> None:
    """Though all of a turn are written in one context."""
    logger, stream = written

    async def one(number: int) -> None:
        log.adopt(HEADER.format(number, 1) if number else "")
        logger.info("mine %d", number)

    await asyncio.gather(*(one(number) for number in (0, 1, 2)))
    await asyncio.sleep(0)
    lines = stream.getvalue().splitlines()
    assert "req=" not in lines[0]
    assert f"req={1:032x} " in lines[1]
    assert "mine 1" in lines[1]
    assert f"req={2:032x} " in lines[2]
    assert "mine 2" in lines[2]


async def test_a_line_says_what_was_so_when_it_was_logged(written: tuple[logging.Logger, io.StringIO]) -> None:
    """A list that changes in the same turn."""
    logger, stream = written
    items = [1]
    logger.info("items %s", items)
    items.append(2)
    await asyncio.sleep(0)
    assert stream.getvalue().endswith("items [1]\n")


async def test_a_warning_is_written_at_once_after_those_before_it(
        written: tuple[logging.Logger, io.StringIO]) -> None:
    """The process may be gone after it."""
    logger, stream = written
    logger.info("before")
    logger.warning("now")
    assert [line.rsplit(": ", 1)[1] for line in stream.getvalue().splitlines()] == ["before", "now"]
    await asyncio.sleep(0)
    assert len(stream.getvalue().splitlines()) == 2


def test_without_a_loop_lines_are_written_at_once(written: tuple[logging.Logger, io.StringIO]) -> None:
    """Before the loop begins, and from threads."""
    logger, stream = written
    logger.info("early")
    thread = threading.Thread(target=lambda: logger.info("aside"))
    thread.start()
    thread.join()
    assert [line.rsplit(": ", 1)[1] for line in stream.getvalue().splitlines()] == ["early", "aside"]


def test_a_second_loop_writes_what_the_first_one_left(written: tuple[logging.Logger, io.StringIO]) -> None:
    """A loop that ended with a line kept does not keep those that come later."""
    logger, stream = written
    loop = asyncio.new_event_loop()

    async def last_words() -> None:
        asyncio.get_running_loop().stop()
        logger.info("left")

    task = loop.create_task(last_words())
    loop.run_forever()
    assert task.done()
    asyncio.run(_two_turns(logger))
    loop.close()
    assert [line.rsplit(": ", 1)[1] for line in stream.getvalue().splitlines()] == ["left", "later"]


async def _two_turns(logger: logging.Logger) -> None:
    logger.info("later")
    await asyncio.sleep(0)


def test_nothing_is_lost_at_exit() -> None:
    """Not even what the last turn of the loop logged."""
    program = ("import asyncio, logging\nfrom muslin import log\nlog.setup('svc')\n"
               "async def main():\n logging.getLogger('x').info('last words')\nasyncio.run(main())")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.endswith("svc x: last words\n")
