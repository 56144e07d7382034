"""Does a watcher grow? Many small pictures in one run; its memory and open files after the first 1,000 and at the end.

python benchmarks/watch_soak.py [PICTURES] [MODEL] [SECONDS]

Without MODEL a network of one convolution stands in, so that everything else is done as often as possible; the run ends
after SECONDS (450) even when pictures are left. TMPDIR=/dev/shm takes the disk out of it.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil

from _timing import write_result
from _watching import done, start, write_cells, write_tiny_model

DIFFERENT = 50
"""pictures that are drawn; the others are copies"""
FILES_SLACK = 8
"""open files that come and go with the picture in hand"""


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    model = sys.argv[2] if len(sys.argv) > 2 else "tiny"
    limit_s = float(sys.argv[3]) if len(sys.argv) > 3 else 450.0
    warm = min(1000, count // 4)
    points: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as place:
        folder, output, tiny = Path(place, "in"), Path(place, "out"), Path(place, "tiny.onnx")
        write_tiny_model(tiny)
        drop(folder, count)
        how = ("-m", str(tiny) if model == "tiny" else model, "--channel", "0", "--settle", "500ms", "--device", "cpu")
        watcher = start(folder, output, *how)
        process = psutil.Process(watcher.pid)
        begun = time.monotonic()
        while (labelled := done(output)) < count and (taken := time.monotonic() - begun) < limit_s:
            if watcher.poll() is not None:
                raise SystemExit(f"the watcher ended: {Path(place, 'said.txt').read_text()[-2000:]}")
            if labelled >= warm:
                memory, files = process.memory_info().rss, process.num_fds()
                points.append({"pictures": labelled, "memory_bytes": memory, "open_files": files})
            time.sleep(1)
        taken = time.monotonic() - begun
        watcher.send_signal(signal.SIGTERM)
        watcher.wait()
    early = [point["memory_bytes"] for point in points if point["pictures"] < 1.5 * warm]
    growth = max(point["memory_bytes"] for point in points) - max(early)
    files = {point["open_files"] for point in points}
    question = "resident memory and open files of a watcher over many pictures"
    figures = {
        "pictures": labelled,
        "model": model,
        "growth_bytes": growth,
        "open_files": sorted(files),
        "pictures_per_s": labelled / taken,
        "holds": bool(growth < 20e6 and max(files) - min(files) <= FILES_SLACK),
        "points": points[:: max(1, len(points) // 40)],
    }
    write_result("watch_soak" if model == "tiny" else f"watch_soak_{Path(model).stem}", question, figures)


def drop(folder: Path, count: int) -> None:
    """So many pictures, a thousand a folder."""
    for i in range(count):
        path = folder / f"{i // 1000}" / f"{i}.tif"
        if i < DIFFERENT:
            write_cells(path, 64, i)
        else:
            path.parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / "0" / f"{i % DIFFERENT}.tif", path)


if __name__ == "__main__":
    main()
