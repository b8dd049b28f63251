"""device: where a tensor lives. There is one, the CPU."""

from __future__ import annotations

from typing import Any

from ..ir.errors import TwofoldError
from ._registry import FUNCTIONS, _put


class Device:
    """The place of a tensor's memory; equal to its name, so `x.device == "cpu"` works.

    Attributes:
        type: "cpu".
        index: None, or the number given as in "cpu:0".

    Raises: TwofoldError for a device that this build can't compute on.

    >>> import twofold as tw
    >>> tw.zeros(1).device == tw.device("cpu")
    True
    """

    __slots__ = ("index", "type")

    def __init__(self, type: Any = "cpu", index: int | None = None):
        if isinstance(type, Device):
            type, index = str(type).partition(":")[0], type.index
        name, _, number = str(type).partition(":")
        if number:
            if not number.isdigit():
                raise TwofoldError(f"{type!r} is no device", op="device", hint='write "cpu" or "cpu:0"')
            index = int(number)
        if name != "cpu":
            hint = 'use device "cpu"'
            if name in ("cuda", "gpu", "mps", "xpu"):
                hint += "; accelerators are planned as the extra twofold[gpu], and need no change in your code"
            raise TwofoldError(
                f"this build computes on the CPU only, got device {str(type)!r}", op="device", hint=hint
            )
        self.type = name
        self.index = index

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return other.partition(":")[0] == self.type
        return isinstance(other, Device) and other.type == self.type

    def __hash__(self) -> int:
        return hash(self.type)

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        return f"device(type={self.type!r}" + (")" if self.index is None else f", index={self.index})")


CPU = Device("cpu")


def check_device(device: Any) -> None:
    """Raise TwofoldError unless tensors can live on `device`; None is fine."""
    if device is not None and device is not CPU:
        Device(device)


_put(FUNCTIONS, "device", Device)
