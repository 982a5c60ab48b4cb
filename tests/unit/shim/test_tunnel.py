"""What the end of a tunnel means for the calls it did not answer."""

from __future__ import annotations

import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim import frames, tunnel
from shim.errors import RpcError
from shim.http2 import Response
from shim.transport import Refused

OK = [(b":status", b"200")]


def response(trailers: list[tuple[bytes, bytes]], body: bytes = b"", headers: list[tuple[bytes, bytes]] | None = None,
             reset: int | None = None) -> Response:
    made = Response()
    made.headers = OK if headers is None else headers
    made.trailers, made.body, made.reset, made.done = trailers, bytearray(body), reset, True
    return made


def failure(made: Response) -> RpcError:
    error = tunnel._end(made)
    assert isinstance(error, RpcError)
    return error


def test_an_end_in_order_means_that_nothing_was_begun() -> None:
    assert isinstance(tunnel._end(response([(b"grpc-status", b"0")])), Refused)


def test_half_an_answer_is_none() -> None:
    assert failure(response([(b"grpc-status", b"0")], b"\0\0\0\0\2a")).status == 13


@pytest.mark.parametrize("status", range(1, 17))
def test_the_services_own_status(status: int) -> None:
    error = failure(response([(b"grpc-status", b"%d" % status), (b"grpc-message", b"caf%C3%A9")]))
    assert (error.status, error.message, error.answered) == (status, "café", True)


@pytest.mark.parametrize("number", [b"17", b"999", b"-1", b"x", b"", b"1000000"])
def test_a_status_that_grpc_does_not_know_is_unknown(number: bytes) -> None:
    assert failure(response([(b"grpc-status", number)])).status == 2


@pytest.mark.parametrize(("http", "status"), [
    (b"400", 13), (b"401", 16), (b"403", 7), (b"404", 12), (b"429", 14), (b"502", 14), (b"503", 14), (b"504", 14),
    (b"500", 2), (b"302", 2)])
def test_an_answer_of_something_that_is_no_grpc_server(http: bytes, status: int) -> None:
    assert failure(response([], headers=[(b":status", http)])).status == status


@pytest.mark.parametrize(("code", "status"), [
    (frames.NO_ERROR, 13), (frames.INTERNAL_ERROR, 13), (frames.REFUSED_STREAM, 14), (frames.CANCEL, 1),
    (frames.ENHANCE_YOUR_CALM, 8), (frames.INADEQUATE_SECURITY, 7), (0xFFFF, 13)])
def test_a_reset_stream(code: int, status: int) -> None:
    error = failure(response([], headers=[], reset=code))
    assert (error.status, error.answered) == (status, False)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_messages_are_percent_decoded(text: str) -> None:
    assert tunnel.text(urllib.parse.quote(text, safe=" /:").encode()) == text


@pytest.mark.parametrize(("message", "text"), [
    (b"100%", "100%"), (b"%", "%"), (b"%4", "%4"), (b"%zz", "%zz"), (b"% 1", "% 1"), (b"%41%4", "A%4"),
    (b"%e2%82", "\ufffd"),
    (b"\xff", "\ufffd"), (b"%%41", "%A")])
def test_what_is_not_properly_encoded_stands(message: bytes, text: str) -> None:
    assert tunnel.text(message) == text
