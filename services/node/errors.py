"""What the kernel refuses."""

from __future__ import annotations

import os

from muslin.errors import IOFailure


class KernelError(IOFailure):
    """A request that the kernel answered with an error.

    Attributes:
        errno: the error number, such as errno.EEXIST.
        index: position of the refused message among those sent together; -1 if all of them were refused as one.
    """

    def __init__(self, number: int, what: str, detail: str = "", index: int = -1) -> None:
        text = os.strerror(number)
        super().__init__(f"{what}: {detail} ({text})" if detail else f"{what}: {text}")
        self.errno = number
        self.index = index
