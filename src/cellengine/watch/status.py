"""What the watcher is doing at this moment: written by the worker, read by the page. A handful of numbers."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from cellengine.engine.run import Progress

RECENT = 50
"""pictures that the throughput is reckoned from"""


@dataclass(frozen=True, slots=True)
class Moment:
    """A picture that was finished: when, how many voxels, and how long network and all stages took."""

    finished: float
    pixels: float
    network_s: float
    seconds: float


class Status:
    """The picture in work, and how fast the last ones went. Any thread may call it."""

    def __init__(self, session: dict[str, Any], model: str, folder: str, classes: Sequence[str] = ()) -> None:
        self.session, self.model, self.folder, self.classes = session, model, folder, list(classes)
        self.begun = time.time()
        self._lock = threading.Lock()
        self._process = psutil.Process()
        self._process.cpu_percent()
        self._picture, self._tiles, self._done = "", 0, 0
        self._paused = ""
        self._recent: deque[Moment] = deque(maxlen=RECENT)

    def progress(self, name: str) -> Progress:
        """What `infer` tells while it works on the picture `name`."""
        return Progress(lambda _, tiles: self._begin(name, tiles), self._advance)

    def idle(self) -> None:
        """Nothing is in work."""
        self._begin("", 0)

    def pause(self, reason: str) -> None:
        """Why nothing can go on; empty when it goes on."""
        with self._lock:
            self._paused = reason

    def finished(self, moment: Moment) -> None:
        """A picture is done."""
        with self._lock:
            self._recent.append(moment)

    def now(self) -> dict[str, Any]:
        """Plain data for the page."""
        with self._lock:
            recent, picture = list(self._recent), self._picture
            state = "paused" if self._paused else "working" if picture else "waiting"
            tiles, done, paused = self._tiles, self._done, self._paused
        busy = sum(moment.seconds for moment in recent)
        return {
            "state": state,
            "reason": paused,
            "picture": picture,
            "tiles": tiles,
            "tiles_done": done,
            "model": self.model,
            "classes": self.classes,
            "folder": self.folder,
            "backend": self.session.get("backend", ""),
            "precision": self.session.get("precision", ""),
            "device": self.session.get("device", ""),
            "running_s": round(time.time() - self.begun, 1),
            "pictures_per_min": round(60 * len(recent) / busy, 2) if busy else 0.0,
            "voxels_per_s": round(sum(moment.pixels for moment in recent) / busy) if busy else 0,
            "network_share": round(min(1.0, sum(m.network_s for m in recent) / busy), 3) if busy else 0.0,
            "cpu_percent": self._process.cpu_percent(),
            "cpus": psutil.cpu_count() or 1,
            "memory_bytes": self._process.memory_info().rss,
        }

    def _begin(self, name: str, tiles: int) -> None:
        with self._lock:
            self._picture, self._tiles, self._done = name, tiles, 0

    def _advance(self, tiles: int) -> None:
        with self._lock:
            self._done += tiles
