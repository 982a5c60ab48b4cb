"""Selectors in Calico's objects: of pods, of namespaces, of service accounts."""

from __future__ import annotations

from muslin.errors import InvalidArgument
from muslin.selectors import Has, Not, Selector, conjunction, keys_of, parse, with_prefix
from muslin.selectors import SelectorError as Unparsable
from services.policy import labels as names
from services.policy.fields import Field

_MOST = 16384
"""Characters of a selector."""
_UNKNOWN_PREFIX = "k8s_ns/label/"


def _parsed(field: Field) -> Selector:
    """Raises FieldError with the column."""
    if len(field.text()) > _MOST:
        raise field.error(f"has {len(field.text())} characters, and {_MOST} are the most")
    try:
        return parse(field.text())
    except Unparsable as problem:
        raise field.error(problem.message) from None


def pods(field: Field) -> Selector:
    """A selector of endpoints. It may ask for derived labels, which nobody can spoof."""
    selector = _parsed(field)
    for key in sorted(keys_of(selector)):
        if key in names.RESERVED_KEYS or key.startswith(_UNKNOWN_PREFIX):
            raise field.error(f"no pod has label {key!r}, which older policy controllers set; use "
                              f"{names.NAMESPACE} or a namespaceSelector")
    return selector


def namespaces(field: Field) -> Selector:
    """A selector of namespaces, as one of endpoints: `all()` is what is in a namespace, `global()` what is in none."""
    return _on_endpoints(field, names.NAMESPACE_PREFIX, Has(names.NAMESPACE))


def service_accounts(field: Field) -> Selector:
    """A selector of service accounts, as one of endpoints: `all()` is what has one, `global()` what has none."""
    return _on_endpoints(field, names.ACCOUNT_PREFIX, Has(names.SERVICE_ACCOUNT))


def _on_endpoints(field: Field, prefix: str, every: Selector) -> Selector:
    selector = _parsed(field)
    try:
        return with_prefix(selector, prefix, every=every, none=Not(every))
    except InvalidArgument as problem:  # a key that is too long with the prefix
        raise field.error(problem.message) from None


def both(terms: list[Selector], excluded: Selector | None) -> Selector | None:
    """All of the terms and not what is excluded; None if there is no term."""
    if not terms:
        return None
    return conjunction([*terms, Not(excluded)] if excluded is not None else terms)
