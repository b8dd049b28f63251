"""detect_anomaly: errors of backward that name lines of the forward pass, and the first NaN as an error."""

from __future__ import annotations

from typing import Any

from . import tape


class detect_anomaly:
    """Inside: backward stops at the first NaN, and its errors name the line that made the operation.

    Use it around forward and backward pass. It costs time; every operation looks up its caller.

    Args:
        check_nan: stop where a derivative gives NaN.

    Raises: AutogradError from `backward()`, at the first derivative with a NaN.

    >>> import twofold as tw
    >>> x = tw.tensor([0.0], requires_grad=True)
    >>> with tw.autograd.detect_anomaly():
    ...     (x.sqrt() * 0.0).sum().backward()  # doctest: +ELLIPSIS
    Traceback (most recent call last):
      ...
    twofold.ir.errors.AutogradError: [backward] the derivative of 'sqrt' gave NaN...
    """

    def __init__(self, check_nan: bool = True):
        self.wanted = (True, check_nan)

    def __enter__(self) -> None:
        self.previous = (tape.keep_locations, tape.check_nan)
        tape.keep_locations, tape.check_nan = self.wanted

    def __exit__(self, *_: Any) -> None:
        tape.keep_locations, tape.check_nan = self.previous


class set_detect_anomaly(detect_anomaly):
    """Switch `detect_anomaly` on or off from here on, or inside a `with` block.

    >>> import twofold as tw
    >>> with tw.autograd.set_detect_anomaly(False):
    ...     pass
    """

    def __init__(self, mode: bool, check_nan: bool = True):
        self.wanted = (bool(mode), bool(mode) and check_nan)
        self.__enter__()

    def __enter__(self) -> None:
        if not hasattr(self, "previous"):
            super().__enter__()
