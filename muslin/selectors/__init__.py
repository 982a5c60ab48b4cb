"""Selectors over labels, in Calico's grammar: of policies, and of address pools."""

from muslin.selectors.expressions import (
    COMPARISONS,
    KEY,
    NAMESPACE,
    All,
    And,
    Comparison,
    Global,
    Has,
    Membership,
    Not,
    Or,
    Selector,
    canonical,
    conjunction,
    equal,
    keys_of,
    with_prefix,
)
from muslin.selectors.parser import MAX_DEPTH, SelectorError, parse

__all__ = ["Selector", "All", "Global", "Has", "Comparison", "Membership", "Not", "And", "Or", "COMPARISONS", "KEY",
           "NAMESPACE", "MAX_DEPTH", "SelectorError", "parse", "canonical", "conjunction", "equal",
           "keys_of", "with_prefix"]
