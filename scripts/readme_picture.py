#!/usr/bin/env python3
"""Makes docs/images/overlay.png out of what scripts/demo left in demo/. Run it with .venv/bin/python."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

HOME = Path(__file__).resolve().parents[1]
SIDE, FROM, SHOWN = 256, (128, 128), 400
"""px of the picture that are shown, their upper left corner, and the side at which they are drawn"""


def part(path: Path, factor: int = 1) -> Image.Image:
    """The shown part of a picture that is enlarged `factor` times."""
    left, top = (factor * n for n in FROM)
    box = (left, top, left + factor * SIDE, top + factor * SIDE)
    return Image.open(path).convert("RGB").crop(box).resize((SHOWN, SHOWN), Image.Resampling.LANCZOS)


def main() -> None:
    """Picture and overlay side by side."""
    picture, overlay = HOME / "demo/inputs/as_stained/tissue.png", HOME / "demo/results/tissue.overlay.png"
    factor = Image.open(overlay).width // Image.open(picture).width
    both = Image.new("RGB", (2 * SHOWN + 8, SHOWN), "white")
    both.paste(part(picture), (0, 0))
    both.paste(part(overlay, factor), (SHOWN + 8, 0))
    target = HOME / "docs/images/overlay.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    both.quantize(192).save(target, optimize=True)


if __name__ == "__main__":
    main()
