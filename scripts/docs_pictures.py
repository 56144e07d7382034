"""The pictures of the page "How it works": drawn from the program's own plan of tiles, and from its own answers."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

import cellengine
from cellengine.cli.demo import separate_haematoxylin
from cellengine.engine.overlay import draw_plane
from cellengine.geometry import plan_tiles

PICTURE, TILE, HALO, DIVISOR = (576, 768), (320, 320), (64, 64), (32, 32)
SHOWN_TILES = (5, 3)
"""of the plan: one inside the picture, one at its corner"""
CUT, TIMES = slice(196, 316), 3
"""px along both sides of the picture in which tiles meet at 256, and how much larger they are shown"""
MARGIN = 80
STYLE = (
    "text{font:15px system-ui,sans-serif;fill:#222}.core0{fill:#dbe9f6}.core1{fill:#eaf3ea}"
    ".core0,.core1{stroke:#9ab}.picture{fill:none;stroke:#222;stroke-width:2}"
    ".read{fill:#d9822b22;stroke:#d9822b;stroke-width:2;stroke-dasharray:7 4}.kept{fill:#d9822b55;stroke:#d9822b}"
    ".block{fill:#1f6fc011;stroke:#1f6fc0;stroke-width:2}.both{fill:#1f6fc022}.cell{fill:#2f9e7a66;stroke:#2f9e7a}"
    ".lone{fill:#c2556a55;stroke:#c2556a}"
)


def write_pictures(folder: Path) -> None:
    """`tiles.svg`, `blocks.svg` and `seams.png`."""
    (folder / "tiles.svg").write_text(tiles(), encoding="utf-8")
    (folder / "blocks.svg").write_text(blocks(), encoding="utf-8")
    seams().save(folder / "seams.png", optimize=True)


def tiles() -> str:
    """Cores that cover a picture, and what two of its tiles read."""
    drawn = []
    plan = list(plan_tiles(PICTURE, TILE, HALO, DIVISOR))
    columns = -(-PICTURE[1] // (TILE[1] - 2 * HALO[1]))
    for i, tile in enumerate(plan):
        drawn.append(_box(f"core{(i // columns + i % columns) % 2}", tile.core.start, tile.core.stop))
    for i in SHOWN_TILES:
        drawn.append(_box("read", plan[i].read.start, plan[i].read.stop))
        drawn.append(_box("kept", plan[i].core.start, plan[i].core.stop))
    drawn.append(_box("picture", (0, 0), PICTURE))
    y, x = plan[SHOWN_TILES[0]].read.start
    drawn.append(f'<text x="{x + 8}" y="{y + 20}">read: core and halo</text>')
    y, x = plan[SHOWN_TILES[0]].core.start
    drawn.append(f'<text x="{x + 8}" y="{y + 22}">core: kept</text>')
    height, width = PICTURE
    drawn.append(f'<text x="{width - 300}" y="{height + 30}">outside, the picture is continued by reflection</text>')
    return _svg(drawn, -MARGIN, -MARGIN, width + 2 * MARGIN, height + 2 * MARGIN, "Cores of tiles cover a picture")


def blocks() -> str:
    """Two blocks of a picture that overlap, and the cells that one or both of them see."""
    drawn = [_box("block", (0, 0), (260, 430)), _box("block", (0, 330), (260, 760)), _box("both", (0, 330), (260, 430))]
    for x, y in ((80, 70), (210, 180), (380, 80), (375, 195), (560, 150), (680, 60)):
        drawn.append(f'<circle class="cell" cx="{x}" cy="{y}" r="34"/>')
    drawn.append('<circle class="lone" cx="330" cy="135" r="20"/>')
    drawn.append('<text x="8" y="250">block 1</text><text x="700" y="250">block 2</text>')
    drawn.append('<text x="336" y="285">seen by both</text>')
    return _svg(drawn, -10, -10, 780, 310, "Labels of two blocks that overlap")


def seams() -> Image.Image:
    """Stained tissue where four tiles meet: the whole picture at once, tiles without a halo, tiles as they are."""
    stored = resources.files("skimage") / "data" / "ihc.png"
    with stored.open("rb") as file:
        picture = separate_haematoxylin(np.asarray(Image.open(file).convert("RGB")))
    with cellengine.load_model("nuclei") as model:
        found = [
            cellengine.infer(picture, model, tile=(768, 768), halo="exact").labels,
            cellengine.infer(picture, model, tile=(256, 256), halo=0).labels,
            cellengine.infer(picture, model, tile=(512, 512)).labels,
        ]
    cut = np.moveaxis(picture[CUT, CUT], -1, 0)
    shown = [draw_plane(cut, labels[CUT, CUT], True, TIMES) for labels in found]
    gap = np.full((shown[0].shape[0], 8, 3), 255, np.uint8)
    return Image.fromarray(np.hstack([shown[0], gap, shown[1], gap, shown[2]])).quantize(192)


def _box(kind: str, start: tuple[int, ...], stop: tuple[int, ...]) -> str:
    size = f'width="{stop[1] - start[1]}" height="{stop[0] - start[0]}"'
    return f'<rect class="{kind}" x="{start[1]}" y="{start[0]}" {size}/>'


def _svg(drawn: list[str], x: int, y: int, width: int, height: int, title: str) -> str:
    ground = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="#fff"/>'
    view = f'viewBox="{x} {y} {width} {height}" role="img"'
    body = "".join(drawn)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {view}><title>{title}</title><style>{STYLE}</style>'
        f"{ground}{body}</svg>\n"
    )
