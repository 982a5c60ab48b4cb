"""Standard error while failed handshakes are read off it: everything else arrives as it was written."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

PROGRAM = textwrap.dedent("""
    import logging, os, subprocess, sys
    from muslin import log, metrics
    from muslin.rpc.handshakes import watched
    log.setup("muslin-test")
    refused = metrics.RPC_REFUSED.labels("expired")._value
    with watched():
        os.write(2, b"I1 ssl_transport_security.cc:1] Handshake failed with error SSL_ERROR_SSL: error:1:"
                    b"SSL routines:x:CERTIFICATE_VERIFY_FAILED: certificate has expired\\n")
        os.write(2, b"a line of the core's\\nand half ")
        os.write(2, b"a line\\n")
        subprocess.run(["sh", "-c", "echo a child >&2"])
        print("python's own", file=sys.stderr)
        logging.getLogger("x").info("logged")
        os.write(2, b"the end, without a newline")
        if sys.argv[1:] == ["crash"]:
            os.abort()
    os.write(2, b"\\nafter\\n")
    print(refused.get())
""")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=60,
                          check=False)


def test_only_failed_handshakes_are_taken_out() -> None:
    done = run()
    assert (done.returncode, done.stdout) == (0, "1.0\n")
    lines = done.stderr.splitlines()
    assert [line for line in lines if "muslin-test" not in line and line != "python's own"] == [
        "a line of the core's", "and half a line", "a child", "the end, without a newline", "after"]
    assert "python's own" in lines
    assert sum("refused reason=expired from=a peer, in its TLS handshake: a certificate that has expired" in line
               for line in lines) == 1
    assert sum(" logged" in line for line in lines) == 1


def test_a_crash_leaves_its_traceback() -> None:
    done = run("crash")
    assert done.returncode == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in done.stderr
    assert "logged" in done.stderr
