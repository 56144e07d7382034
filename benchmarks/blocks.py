"""Do labels depend on the blocks? The same scores decoded as a whole, and in blocks of several sizes.

A mosaic of real nuclei, and one of real embryos in 3D where the package has a model for them.

python benchmarks/blocks.py [--side 4096] [--model nuclei] [--volume-model nuclei3d]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from _pictures import mosaic, volume_mosaic
from _timing import write_result
from cellengine.engine.backends import open_session
from cellengine.engine.blocks import Blocks, block_margins, join_blocks, kept_in_core, own_labels
from cellengine.engine.flow import Stop, overlap
from cellengine.engine.label import label
from cellengine.engine.model_file import resolve_model
from cellengine.engine.options import InferOptions
from cellengine.engine.plan import plan_picture
from cellengine.engine.predict import Scores, predict
from cellengine.engine.resample import Grid
from cellengine.engine.scale import measure_scene
from cellengine.engine.scene import scenes
from cellengine.geometry import Region
from cellengine.io import ImageSource, MemorySource
from cellengine.metrics import evaluate_instances
from cellengine.ops import components
from cellengine.spec import Components, ModelSpec
from cellengine.zoo import bundled

Array = np.ndarray[Any, Any]
CORES = {2: (1024, 512), 3: (96, 64)}
THREADS = (1, 5)


def scores_of(source: ImageSource, model: str) -> tuple[Scores, ModelSpec]:
    """What the network says of the first picture of a source."""
    with open_session(resolve_model(model), device="cpu") as session:
        scene = scenes(source, session.spec, InferOptions())[0].seen
        plan = plan_picture(scene.shape, session, InferOptions())
        scale = measure_scene(scene, session.spec.normalize).scale
        return predict(scene, session, plan, scale, Stop(), lambda tiles: None), session.spec


def in_blocks(scores: Scores, spec: ModelSpec, core: int, threads: int) -> Array:
    """Labels of the whole from blocks with cores of `core` px a side."""
    shape = next(iter(scores.values())).shape[1:]
    grid = Grid(shape, shape)
    blocks = Blocks(shape, tuple(min(core, n) for n in shape), block_margins(spec))

    def decode(region: Region) -> Array:
        part = {name: values[(slice(None), *region.slices)] for name, values in scores.items()}
        return label(part, spec.decoder, spec.voxel_size_um)

    labels = list(overlap(lambda block: decode(block.read), blocks, threads, Stop()))
    kept = [kept_in_core(own, block, grid) for own, block in zip(labels, blocks, strict=True)]
    if not isinstance(spec.decoder, Components):
        trimmed = [own_labels(*pair) for pair in zip(labels, kept, strict=True)]
        labels, kept = [own for own, _ in trimmed], [rest for _, rest in trimmed]

    def read(number: int, region: Region) -> Array:
        return labels[number][region.relative_to(blocks[number].read)]

    names, _ = join_blocks(read, kept, blocks, grid, spec.decoder, threads, Stop())
    out = np.empty(shape, np.uint32)
    for number, block in enumerate(blocks):
        out[block.core.slices] = names[number][read(number, block.core)]
    return out


def largest_piece(scores: Scores) -> int:
    """The longest side of a connected piece of foreground, in px."""
    name = "foreground" if "foreground" in scores else next(iter(scores))
    pieces = components(scores[name][0] > 32768)
    return max((s.stop - s.start for box in ndimage.find_objects(pieces.astype(np.int32)) for s in box), default=0)


def compare(name: str, source: ImageSource, model: str) -> list[dict[str, Any]]:
    """The rows of one picture."""
    scores, spec = scores_of(source, model)
    whole = label(scores, spec.decoder, spec.voxel_size_um)
    common = {
        "picture": name,
        "shape": list(whole.shape),
        "objects": int(whole.max()),
        "overlap": block_margins(spec).overlap,
        "largest_piece": largest_piece(scores),
    }
    rows = []
    for core in CORES[whole.ndim]:
        found = [in_blocks(scores, spec, core, threads) for threads in THREADS]
        rows.append(
            common
            | {
                "core": core,
                "f1_at_90": evaluate_instances(whole, found[0], (0.9,)).at(0.9).f1,
                "identical": bool((whole == found[0]).all()),
                "independent_of_threads": all((found[0] == other).all() for other in found[1:]),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--volume-model", default="nuclei3d")
    arguments = parser.parse_args()
    rows = compare("mosaic of nuclei", MemorySource(mosaic(arguments.side)), arguments.model)
    if arguments.volume_model in bundled() or Path(arguments.volume_model).exists():
        rows += compare("mosaic of embryos", volume_mosaic(), arguments.volume_model)
    summary = {
        "least_f1_at_90": min(row["f1_at_90"] for row in rows),
        "independent_of_threads": all(row["independent_of_threads"] for row in rows),
    }
    write_result("blocks", __doc__.partition("\n")[0], {"summary": summary, "rows": rows})


if __name__ == "__main__":
    main()
