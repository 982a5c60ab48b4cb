"""Reports of `muslin ipam check` in files."""

from __future__ import annotations

import json
import os
from pathlib import Path

from google.protobuf import json_format

from muslin.api.ipam.v1 import ipam_pb2
from muslin.cli.ipam.output import plain, structured
from muslin.errors import Corrupt, InvalidArgument

__all__ = ["read", "write"]


def write(path: Path, report: ipam_pb2.Report) -> None:
    """Write a report as JSON, whole or not at all. Raises OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(structured(plain(report), "json") + "\n")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read(path: Path) -> ipam_pb2.Report:
    """A report as `write`, or `check -o json`, made it.

    Raises:
        OSError: the file can not be read.
        Corrupt: it is not JSON.
        InvalidArgument: it is not a report.
    """
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise Corrupt(f"{path}: not JSON: {error}") from None
    try:
        report: ipam_pb2.Report = json_format.ParseDict(value, ipam_pb2.Report())
    except (json_format.ParseError, AttributeError, TypeError) as error:  # it is not careful with what is no object
        raise InvalidArgument(f"{path}: not a report of `muslin ipam check`: {error}") from None
    if not report.created_ms:
        raise InvalidArgument(f"{path}: not a report of `muslin ipam check`: it has no created_ms")
    return report
