"""What will be needed next, made ahead by a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Calls `make(position)` ahead in a thread; an exception there is raised by `next`."""

    def __init__(self, make: Callable[[int], T], position: int, stride: int, depth: int) -> None:
        self._queue: queue.Queue[T | BaseException] = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(make, position, stride), daemon=True, name="prefetch")
        self._thread.start()

    @property
    def closed(self) -> bool:
        return self._stop.is_set()

    def _fill(self, make: Callable[[int], T], position: int, stride: int) -> None:
        while not self.closed:
            try:
                self._queue.put(make(position))
            except BaseException as error:
                self._queue.put(error)
                return
            position += stride

    def next(self) -> T:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self._stop.set()
        # The thread may wait in `put`; it puts at most one more item once the flag is set, and now there is room for it.
        while not self._queue.empty():
            self._queue.get_nowait()
        self._thread.join()
