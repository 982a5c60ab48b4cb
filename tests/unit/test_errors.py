"""The tree of errors and its table."""

from __future__ import annotations

import grpc
import pytest

from muslin import errors


@pytest.mark.parametrize("status", [s for s in grpc.StatusCode if s is not grpc.StatusCode.OK])
def test_every_status_is_one_error_and_one_code(status: grpc.StatusCode) -> None:
    kind = errors.BY_STATUS[status]
    problem = errors.from_status(status, "why")
    assert (type(problem), problem.status, problem.message) == (kind, status, "why")
    assert errors.CNI_CODE[status.value[0]] == kind.cni_code


def test_every_error_of_the_tree_is_in_the_table() -> None:
    """A class that is forgotten in the table would travel as itself and arrive as something else."""
    declared = {kind for kind in vars(errors).values()
                if isinstance(kind, type) and issubclass(kind, errors.MuslinError)}
    assert declared - {errors.MuslinError} == set(errors.BY_STATUS.values())


def test_codes_are_the_specifications_or_ours() -> None:
    specified = {1, 2, 3, 4, 5, 6, 7, 11}
    assert all(code in specified or code >= 100 for code in errors.CNI_CODE.values())


def test_the_docstring_tells_the_table_as_it_is() -> None:
    for kind in errors.BY_STATUS.values():
        row = next(line for line in (errors.__doc__ or "").splitlines() if f"- {kind.__name__} " in line)
        assert row.split()[2:] [:2] == [kind.status.name, str(kind.cni_code)] or row.split()[1:4] == [
            kind.__name__, kind.status.name, str(kind.cni_code)]
