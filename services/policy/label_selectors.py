"""Kubernetes' label selectors (LabelSelector of meta/v1) as terms of a selector."""

from __future__ import annotations

from muslin.selectors import Comparison, Has, Membership, Not, Selector, equal
from services.policy.fields import Field, FieldError

_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


def terms(selector: Field, prefix: str = "") -> list[Selector]:
    """The terms, all of which must hold, in the order of their keys; none of an empty selector.

    `prefix` goes before each key.

    Raises:
        FieldError: the API server would refuse it.
    """
    labels, expressions = _parts(selector)
    given = [equal(prefix + key, value) for key, value in sorted(labels.items())]
    return given + sorted((_expression(item, prefix) for item in expressions), key=str)


def keys(selector: Field) -> set[str]:
    """The label keys that a selector asks for, without prefix. Raises FieldError as `terms` does."""
    labels, expressions = _parts(selector)
    return {*labels, *(_key(item.fields(), item.path) for item in expressions)}


def _parts(selector: Field) -> tuple[dict[str, str], list[Field]]:
    fields = selector.fields(("matchLabels", "matchExpressions"))
    labels = fields["matchLabels"].labels() if "matchLabels" in fields else {}
    return labels, fields["matchExpressions"].items() if "matchExpressions" in fields else []


def _key(fields: dict[str, Field], path: str) -> str:
    if "key" not in fields:
        raise FieldError(f"{path}.key", "is missing")
    return fields["key"].label_key(fields["key"].text())


def _expression(item: Field, prefix: str) -> Selector:
    fields = item.fields(("key", "operator", "values"))
    key = prefix + _key(fields, item.path)
    if "operator" not in fields:
        raise FieldError(f"{item.path}.operator", f"is missing; use {', '.join(_OPERATORS)}")
    operator = fields["operator"].one_of(_OPERATORS)
    values = [value.label_value() for value in fields["values"].items()] if "values" in fields else []
    if operator in ("Exists", "DoesNotExist"):
        if values:
            raise fields["values"].error(f"must be empty with operator {operator}")
        return Has(key) if operator == "Exists" else Not(Has(key))
    if not values:
        raise FieldError(f"{item.path}.values", f"must not be empty with operator {operator}")
    if len(values) == 1:
        return Comparison(key, "==" if operator == "In" else "!=", values[0])
    return Membership(key, tuple(sorted(set(values))), operator == "NotIn")
