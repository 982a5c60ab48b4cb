"""python-etcd3 runs on our stubs; each test has an interpreter of its own, because an import happens once."""

from __future__ import annotations

import subprocess
import sys


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_python_etcd3_uses_our_stubs_and_the_fast_protobuf() -> None:
    result = run("""
from muslin.etcd.compat import etcd3
from muslin.etcd.stubs import rpc_pb2, kv_pb2
import etcd3.etcdrpc
from google.protobuf.internal import api_implementation
assert etcd3.etcdrpc.rpc_pb2 is rpc_pb2
assert etcd3.etcdrpc.kv_pb2 is kv_pb2
assert etcd3.etcdrpc.TxnRequest is rpc_pb2.TxnRequest
assert api_implementation.Type() != "python", api_implementation.Type()
etcd3.client(port=1).transactions.put("a", "b")
""")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_package_that_is_there_already_is_not_taken_for_ours() -> None:
    result = run("""
import sys, types
stranger = types.ModuleType("etcd3.etcdrpc")
stranger.rpc_pb2 = object()
sys.modules["etcd3.etcdrpc"] = stranger
import muslin.etcd.compat
""")
    assert result.returncode == 1
    assert "import it through muslin.etcd.compat" in result.stderr
