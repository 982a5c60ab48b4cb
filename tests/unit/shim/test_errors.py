"""The shim's copies of what it may not import."""

from __future__ import annotations

import grpc

from muslin import errors as library
from shim import errors


def test_the_table_is_the_librarys() -> None:
    assert library.CNI_CODE == errors.CNI_CODE


def test_names_and_numbers_are_grpcs() -> None:
    for status in grpc.StatusCode:
        number = status.value[0]
        assert errors.STATUS_NAME[number] == status.name
    assert len(errors.STATUS_NAME) == len(grpc.StatusCode)


def test_the_constants_are_grpcs() -> None:
    names = {name: status.value[0] for name, status in grpc.StatusCode.__members__.items()}
    names["DENIED"] = names["PERMISSION_DENIED"]
    ours = [name for name in errors.__all__ if name in names]
    assert len(ours) >= 9
    assert {name: getattr(errors, name) for name in ours} == {name: names[name] for name in ours}
