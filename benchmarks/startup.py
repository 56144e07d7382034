"""How long does `cellengine --help` take, as a whole process?

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from _timing import seconds, write_result


def main() -> None:
    command = [str(Path(sys.executable).with_name("cellengine")), "--help"]
    python = [sys.executable, "-c", "pass"]
    runs = {"help": [], "python": []}  # type: dict[str, list[float]]
    for _ in range(21):
        for name, argv in (("help", command), ("python", python)):
            runs[name].append(seconds(lambda argv=argv: subprocess.run(argv, check=True, capture_output=True)))
    figures = {f"{name}_median_s": statistics.median(times[1:]) for name, times in runs.items()}
    write_result("startup", "Wall time of cellengine --help, beside an empty Python", figures)


if __name__ == "__main__":
    main()
