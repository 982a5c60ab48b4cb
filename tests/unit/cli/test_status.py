"""What `muslin status` says of the node's upkeep."""

from __future__ import annotations

from pathlib import Path

from muslin.api.node.v1 import node_pb2
from muslin.cli.lifecycle import _node_facts, _status_text
from muslin.cli.places import Places

FACTS = {"healthy": True, "process": 1, "node": "n1", "run": "/run/muslin", "state": "/var/lib/muslin", "etcd": "",
         "services": {}, "pods": 0}


def test_deletions_that_wait_and_what_is_amiss_are_told(tmp_path: Path) -> None:
    answer = node_pb2.GetStatusResponse(
        node="n1", deletions=node_pb2.Deletions(waiting=3, oldest_seconds=61.26, failed=1),
        problems=["net/a/eth0: its veth musa is gone, and DEL has not come"])
    facts = _node_facts(answer, Places(tmp_path, tmp_path))
    assert facts["deletions"] == {"waiting": 3, "oldest_seconds": 61.3, "failed": 1}
    text = _status_text({**FACTS, **facts})
    assert "3 deletions wait to be done; the oldest for 61 s" in text
    assert "1 deletions could not be done and were put aside" in text
    assert "net/a/eth0: its veth musa is gone, and DEL has not come" in text


def test_nothing_is_said_where_nothing_waits(tmp_path: Path) -> None:
    facts = _node_facts(node_pb2.GetStatusResponse(node="n1"), Places(tmp_path, tmp_path))
    assert "deletion" not in _status_text({**FACTS, **facts})


def test_without_the_node_the_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "deletions/failed").mkdir(parents=True)
    (tmp_path / "deletions/00000000000000000001.c.eth0.call").write_bytes(b"")
    facts = _node_facts(None, Places(tmp_path, tmp_path))
    assert facts["deletions"]["waiting"] == 1
    assert "1 deletions wait to be done\n" in _status_text({**FACTS, **facts}) + "\n"
