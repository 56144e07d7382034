"""Does a watcher grow? Many small pictures in one run; its memory and open files after the first 1,000 and at the end.

python benchmarks/watch_soak.py [PICTURES] [MODEL]
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil

from _timing import write_result
from _watching import done, start, wait_for, write_cells


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    model = sys.argv[2] if len(sys.argv) > 2 else "nuclei"
    warm = min(1000, count // 4)
    points: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as place:
        folder, output = Path(place, "in"), Path(place, "out")
        folder.mkdir()
        for i in range(count):
            write_cells(folder / f"{i // 1000}" / f"{i}.tif", 64, i)
        watcher = start(folder, output, "-m", model, "--channel", "0", "--settle", "500ms")
        process = psutil.Process(watcher.pid)
        begun = time.monotonic()
        while (labelled := done(output)) < count:
            if watcher.poll() is not None:
                raise SystemExit("the watcher ended: see said.txt")
            if labelled >= warm:
                memory, files = process.memory_info().rss, process.num_fds()
                points.append({"pictures": labelled, "memory_bytes": memory, "open_files": files})
            time.sleep(2)
        wait_for(lambda: done(output) == count, 60)
        watcher.send_signal(signal.SIGTERM)
        watcher.wait()
    first = max(point["memory_bytes"] for point in points[: max(1, len(points) // 50)])
    growth = max(point["memory_bytes"] for point in points) - first
    files = {point["open_files"] for point in points}
    question = "resident memory and open files of a watcher over many pictures"
    figures = {
        "pictures": count,
        "model": model,
        "growth_bytes": growth,
        "open_files": sorted(files),
        "pictures_per_s": count / (time.monotonic() - begun),
        "holds": bool(growth < 20e6 and max(files) - min(files) <= 8),
        "points": points[:: max(1, len(points) // 100)],
    }
    write_result("watch_soak", question, figures)


if __name__ == "__main__":
    main()
