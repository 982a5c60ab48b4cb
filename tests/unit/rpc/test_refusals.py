"""What is refused is counted always, and said now and then; what gRPC's core says of handshakes is understood."""

from __future__ import annotations

import logging

import pytest

from muslin import metrics
from muslin.rpc.handshakes import judged
from muslin.rpc.refusals import Refusals

_PREFIX = "I1123 12:11:54.950424   28202 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL: "


@pytest.mark.parametrize(("line", "reason"), [
    ("error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: certificate has expired", "expired"),
    ("error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: certificate is not yet valid", "expired"),
    ("error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate",
     "untrusted"),
    ("error:100000c0:SSL routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE: Invalid certificate",
     "no certificate"),
    ("error:1000009c:SSL routines:OPENSSL_internal:HTTP_REQUEST: Invalid certificate verification", "plaintext"),
    ("error:100000f7:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER: Invalid", "plaintext"),
    ("error:10000126:SSL routines:OPENSSL_internal:UNEXPECTED_RECORD: x", "handshake"),
])
def test_a_failed_handshake_has_a_reason(line: str, reason: str) -> None:
    found = judged(_PREFIX + line)
    assert found
    assert found[0] == reason


@pytest.mark.parametrize("line", ["", "E1123 chttp2_transport.cc:1403] Got goaway", "Traceback (most recent call):"])
def test_other_lines_are_not_ours(line: str) -> None:
    assert judged(line) is None


def test_a_flood_is_counted_and_not_written_out(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    refused = Refusals(lambda: now)
    count = metrics.RPC_REFUSED.labels("a flood")
    before = count._value.get()
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            refused("a flood", "somebody", "no")
        refused("another reason", "somebody", "no")
        lines = [record.getMessage() for record in caplog.records]
        assert lines == [*["refused reason=a flood from=somebody: no"] * 5,
                         "refused reason=another reason from=somebody: no"]
        now += 1
        refused("a flood", "somebody", "no")
    assert caplog.records[-1].getMessage() == "refused reason=a flood from=somebody: no (and 995 more before this one)"
    assert count._value.get() - before == 1001
