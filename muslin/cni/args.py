"""CNI_ARGS: `KEY=value` pairs separated by semicolons."""

from __future__ import annotations

from muslin.errors import InvalidArgument


def parse(text: str) -> dict[str, str]:
    """The pairs; unknown keys are kept and for the reader to ignore.

    Raises:
        InvalidArgument: a part has no `=`.
    """
    pairs = {}
    for part in text.split(";"):
        if not part:
            continue
        key, equals, value = part.partition("=")
        if not equals:
            raise InvalidArgument(f"CNI_ARGS: {part!r} is not KEY=value")
        pairs[key] = value
    return pairs
