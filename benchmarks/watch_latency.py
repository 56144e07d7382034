"""How long after a picture is complete are its results written? 1024 x 1024, the bundled nuclei model, on the CPU.

python benchmarks/watch_latency.py [PICTURES] [SIDE]
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from _timing import write_result
from _watching import ask, done, start, wait_for, write_cells

SETTLE_S = 2.0


def main() -> None:
    count, side = (int(text) for text in [*sys.argv[1:], "40", "1024"][:2])
    with tempfile.TemporaryDirectory() as place:
        folder, output = Path(place, "in"), Path(place, "out")
        folder.mkdir()
        watcher = start(folder, output, "--channel", "0", "--settle", f"{SETTLE_S}s")
        write_cells(folder / "first.tif", side, 0)
        wait_for(lambda: done(output) == 1, 300)  # the model is loaded, and what is compiled is compiled
        chance = np.random.default_rng(0)
        for i in range(count):
            write_cells(folder / f"{i}.tif", side, i + 1)
            time.sleep(chance.uniform(1.5, 4.0))
        wait_for(lambda: done(output) == count + 1, 600)
        latency = [row[0] for row in ask(output, "SELECT latency_s FROM pictures WHERE name != 'first.tif'")]
        watcher.send_signal(signal.SIGTERM)
        watcher.wait()
    p50, p95 = np.percentile(latency, (50, 95))
    question = "seconds from the complete file to the written results, pictures that come one by one"
    figures = {"pictures": count, "side_px": side, "settle_s": SETTLE_S, "p50_s": float(p50), "p95_s": float(p95)}
    write_result(
        "watch_latency", question, {**figures, "bar_p95_s": SETTLE_S + 1.5, "holds": bool(p95 <= SETTLE_S + 1.5)}
    )


if __name__ == "__main__":
    main()
