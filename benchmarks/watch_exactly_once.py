"""Does each of many pictures get one result when the watcher is killed again and again at random moments?

python benchmarks/watch_exactly_once.py [PICTURES] [KILLS] [MODEL]
"""

from __future__ import annotations

import csv
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from _timing import write_result
from _watching import ask, done, start, wait_for, write_cells


def main() -> None:
    count, kills = (int(text) for text in [*sys.argv[1:3], "2000", "10"][:2])
    model = sys.argv[3] if len(sys.argv) > 3 else "nuclei"
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    names = [f"{i % 7}/{i}.tif" for i in range(count)]
    with tempfile.TemporaryDirectory() as place:
        folder, output = Path(place, "in"), Path(place, "out")
        folder.mkdir()
        how = ("-m", model, "--channel", "0", "--settle", "300ms")
        watcher = start(folder, output, *how)
        moments = set(chance.sample(range(count // 20, count), kills))
        for i, name in enumerate(names):
            write_cells(folder / name, 64, i)
            time.sleep(chance.uniform(0, 0.05))
            if i in moments:
                time.sleep(chance.uniform(0, 6))
                watcher.kill()
                watcher.wait()
                watcher = start(folder, output, *how)
        wait_for(lambda: done(output) == count, 7200)
        aside = ask(output, "SELECT COUNT(*) FROM pictures WHERE kind = 'failed'")[0][0]
        watcher.send_signal(signal.SIGTERM)
        watcher.wait()
        with (output / "pictures.csv").open(encoding="utf-8", newline="") as file:
            listed = [row["file"] for row in csv.DictReader(file)]
        labels = len(list(output.rglob("*.labels.tif")))
    once = sorted(listed) == sorted(names) and labels == count and aside == 0
    figures = {"pictures": count, "kills": kills, "seed": seed, "listed": len(listed), "labels": labels, "holds": once}
    write_result("watch_exactly_once", "each picture one result, none twice, none missing", figures)
    sys.exit(0 if once else 1)


if __name__ == "__main__":
    main()
