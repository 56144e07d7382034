"""Arrays whose memory is used again once nobody holds them: fresh memory costs a page fault every 4 KB."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class _Lease:
    """Memory on loan: goes back when the last array that shows it is gone."""

    def __init__(self, memory: Array, shelf: deque[Array]) -> None:
        self._memory, self._shelf = memory, shelf
        # numpy keeps the object whose interface it read alive as long as any view of it
        self.__array_interface__: dict[str, Any] = memory.__array_interface__

    def __del__(self) -> None:
        self._shelf.append(self._memory)


class Recycler:
    """Gives out float32 arrays that belong to their holder, with memory of earlier ones of the same size.

    At most `kept` pieces of memory that nobody holds are kept, whatever their sizes. Any thread may use it.
    """

    def __init__(self, kept: int) -> None:
        self._shelf: deque[Array] = deque(maxlen=kept)

    def empty(self, shape: tuple[int, ...]) -> Array:
        """A C-ordered float32 array of `shape`; its values are whatever was there."""
        size = int(np.prod(shape, dtype=np.int64))
        array: Array = np.asarray(_Lease(self._take(size), self._shelf)).reshape(shape)
        return array

    def clear(self) -> None:
        """Let go of what nobody holds."""
        self._shelf.clear()

    def _take(self, size: int) -> Array:
        for _ in range(len(self._shelf)):
            try:
                memory = self._shelf.popleft()
            except IndexError:  # another thread took the last one
                break
            if memory.size == size:
                return memory
            self._shelf.append(memory)
        return np.empty(size, np.float32)
