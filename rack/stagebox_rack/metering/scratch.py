"""Working arrays that are kept between calls.

A meter frame of many channels needs a few arrays of several hundred kilobytes. Allocated afresh each
time they go back to the kernel, and the page faults of the next frame cost more than its arithmetic.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

Scalar = TypeVar("Scalar", np.float32, np.float64)


class Scratch(Generic[Scalar]):
    """One array of a given type, made again only when another shape is asked for."""

    def __init__(self, dtype: type[Scalar]) -> None:
        """Hold arrays of ``dtype``."""
        self._dtype: type[Scalar] = dtype
        self._array: npt.NDArray[Scalar] = np.empty(0, dtype=dtype)

    def shaped(self, *shape: int) -> npt.NDArray[Scalar]:
        """The array, of ``shape``; its contents are whatever was left in it."""
        if self._array.shape != shape:
            self._array = np.empty(shape, dtype=self._dtype)
        return self._array

    @property
    def last(self) -> npt.NDArray[Scalar]:
        """The array as it was asked for last."""
        return self._array
