"""What an NVIDIA GPU does with the package, in one command of under 8 minutes; every part says why when it cannot run.

    python benchmarks/gpu.py [--models nuclei ...] [--checkpoint runs/nuclei/best.pt] [--minutes 8] [--device cuda:0]

Sessions of every model in every precision against PyTorch eager, autocast and torch.compile on the same tiles,
end-to-end infer, memory by tile, what happens when memory runs out, and the speed of training. The result is one JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from _timing import write_result
from cellengine.engine.backends import BACKENDS, available
from cellengine.engine.backends.cuda import CudaDevice
from cellengine.engine.backends.hardware import cuda_devices
from cellengine.engine.batch import Device, infer_files
from cellengine.engine.benchmark.cases import list_cases
from cellengine.engine.benchmark.run import measure_case
from cellengine.engine.frugal import run_within_memory
from cellengine.engine.golden import check_golden, golden_input
from cellengine.engine.journal import RUN, read_json
from cellengine.engine.model_file import ModelFile, read_model_file, resolve_model
from cellengine.engine.options import InferOptions
from cellengine.errors import CellengineError
from cellengine.records import to_plain
from cellengine.zoo import bundled

Part = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="*", default=sorted(bundled()))
    parser.add_argument("--checkpoint", type=Path, help="a best.pt, for the comparison with PyTorch and for training")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", default="cuda:0")
    arguments = parser.parse_args()
    if not cuda_devices():
        raise SystemExit("no NVIDIA device or driver: nothing to measure, nothing is claimed")
    device, until = arguments.device, time.monotonic() + 60 * arguments.minutes
    models = [read_model_file(resolve_model(name)) for name in arguments.models]
    parts: dict[str, Part] = {"device": lambda: describe(device)}
    for model in models:
        name = model.path.stem
        parts[f"golden {name}"] = lambda model=model: golden(model, device)
        parts[f"sessions {name}"] = lambda model=model: sessions(model, device)
    flat = [model for model in models if model.spec.task == "instances" and len(model.spec.axes) == 2]
    for model in sorted(flat, key=lambda model: model.path.stem != "nuclei")[:1]:
        parts["infer"] = lambda model=model: end_to_end(model, device)
        parts["memory by tile"] = lambda model=model: memory_by_tile(model, device)
        parts["out of memory"] = lambda model=model: out_of_memory(model, device)
    if arguments.checkpoint:
        parts["pytorch"] = lambda: pytorch(arguments.checkpoint, device)
        parts["training"] = lambda: training(arguments.checkpoint, device)
    figures: dict[str, Any] = {}
    for name, part in parts.items():
        figures[name] = attempt(part, until)
        print(f"{name}: {json.dumps(figures[name])[:300]}", flush=True)
        write_result("gpu", "An NVIDIA GPU: sessions, infer, memory, training", figures)


def attempt(part: Part, until: float) -> Any:
    """What a part found, or why it found nothing: one that fails must not cost the others."""
    if time.monotonic() > until:
        return {"skipped": "the time was over"}
    begun = time.monotonic()
    try:
        return {"found": part(), "took_s": round(time.monotonic() - begun, 1)}
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs into the result
        return {"failed": f"{type(error).__name__}: {error}"[:500], "took_s": round(time.monotonic() - begun, 1)}


def describe(device: str) -> Any:
    place = CudaDevice(int(device.partition(":")[2]))
    free, total = place.memory()
    return {"name": place.name, "capability": place.capability, "free_bytes": free, "total_bytes": total}


def golden(model: ModelFile, device: str) -> Any:
    """The golden test of every combination that may run or be unlocked; what fails here must not be trusted."""
    found = {}
    for c in available(model, device=device):
        key = f"{c.backend} {c.precision}"
        if c.model is None or c.model.golden is None:
            found[key] = {"skipped": c.problem or "no golden test"}
            continue
        try:
            with BACKENDS[c.backend]().open(c.model, device, c.precision, None) as session:
                found[key] = to_plain(check_golden(session, c.model.golden))
        except CellengineError as error:
            found[key] = {"failed": str(error)}
    return found


def sessions(model: ModelFile, device: str) -> Any:
    """Every combination in a fresh process; forms that only the golden test unlocks count too."""
    cases, skipped = list_cases(model, [device], [], [], [], [1, 4])
    results = [measure_case(case) for case in cases]
    return [{k: v for k, v in r.row().items() if v != ""} for r in [*results, *skipped]]


def end_to_end(model: ModelFile, device: str) -> Any:
    """A picture of 8192 x 8192, file to files; the share of the time that the network was at work."""
    import tifffile

    try:
        from _pictures import mosaic

        picture = mosaic(8192)
    except Exception:  # noqa: BLE001 - the annotated pictures are not everywhere
        picture = (golden_input(1, (1024, 1024))[0, 0] * 255).astype(np.uint8)
        picture = np.tile(picture, (8, 8))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.tif"
        tifffile.imwrite(path, picture, tile=(512, 512))
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            infer_files(
                [str(path)], str(model.path), Path(folder) / "out", InferOptions(), Device(device), restart=True
            )
            times.append(time.perf_counter() - begun)
        record = read_json(Path(folder) / "out" / RUN)
    (entry,) = record["files"].values()
    return {
        "seconds": times,
        "voxels_per_s": picture.size / min(times),
        "stages_s": entry["seconds"],
        "session": record["session"],
        "network_share": entry["seconds"].get("network", 0.0) / entry["seconds"]["total"],
    }


def memory_by_tile(model: ModelFile, device: str) -> Any:
    """Peak memory of the GPU by side of the tile, as the driver counts it, and by the fall of its free memory."""
    spec = model.spec
    found = []
    for side in (256, 512, 1024, 2048):
        shape = tuple(max(d, side // d * d) for d in spec.divisor) if len(spec.divisor) == 2 else spec.tile
        cases, _ = list_cases(model, [device], ["onnxruntime"], ["fp32"], [shape], [1])
        for case in cases:
            r = measure_case(case)
            found.append(
                {"tile": list(shape), "held": r.peak_device_bytes, "fall": r.free_device_drop_bytes, "why": r.skipped}
            )
    return found


def out_of_memory(model: ModelFile, device: str) -> Any:
    """A batch that cannot fit into a limited arena is answered in pieces, with the answer of the whole."""
    spec = model.spec
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("cellengine.engine.frugal").addHandler(handler)
    channels, halo = len(spec.channels), spec.halo
    batch = golden_input(channels, spec.tile).repeat(2, axis=0)
    with BACKENDS["onnxruntime"]().open(model, device, "fp32", None) as session:
        whole = session.run(batch, halo)
    limit = max(256 << 20, int(spec.activation_bytes * prod(spec.tile) / 3))
    with BACKENDS["onnxruntime"]().open(model, device, "fp32", None, limit) as session:
        pieces = run_within_memory(session, batch, halo)
    difference = max(float(np.abs(whole[name] - pieces[name]).max()) for name in whole)
    return {"limit_bytes": limit, "said": said, "largest_difference": difference}


def pytorch(checkpoint: Path, device: str) -> Any:
    """PyTorch on the same tile: eager fp32 and TF32 off, autocast to fp16, and torch.compile."""
    import torch

    from cellengine.models import build, read_config
    from cellengine.models.checkpoint import load_checkpoint
    from cellengine.spec import ModelSpec

    state = load_checkpoint(checkpoint)
    module = build(read_config(state["network"], str(checkpoint)))
    module.load_state_dict(state["model"])
    module = module.eval().to(device)
    spec = ModelSpec.from_json(state["spec"], str(checkpoint))
    side = 1024 if len(spec.divisor) == 2 else 96
    shape = tuple(side // d * d for d in spec.divisor)
    host = torch.from_numpy(golden_input(len(spec.channels), shape)).pin_memory()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    compiled = torch.compile(module)

    def eager() -> Any:
        return {n: v.cpu() for n, v in module(host.to(device, non_blocking=True)).items()}

    def autocast() -> Any:
        with torch.autocast("cuda", torch.float16):
            return {n: v.float().cpu() for n, v in module(host.to(device, non_blocking=True)).items()}

    def fused() -> Any:
        with torch.autocast("cuda", torch.float16):
            return {n: v.float().cpu() for n, v in compiled(host.to(device, non_blocking=True)).items()}

    found: dict[str, Any] = {"tile": list(shape)}
    for name, function in (("eager fp32", eager), ("autocast fp16", autocast), ("compile fp16", fused)):
        try:
            with torch.inference_mode():
                function()
                times = []
                for _ in range(20):
                    begun = time.perf_counter()
                    function()
                    times.append(time.perf_counter() - begun)
            found[name] = {"median_s": statistics.median(times), "voxels_per_s": prod(shape) / statistics.median(times)}
        except Exception as error:  # noqa: BLE001 - a compiler that is missing must not cost the others
            found[name] = {"failed": f"{type(error).__name__}: {error}"[:300]}
    return found


def training(checkpoint: Path, device: str) -> Any:
    """Samples a second of forward, backward and step on synthetic batches, with autocast to bf16."""
    import torch

    from cellengine.models import build, read_config
    from cellengine.models.checkpoint import load_checkpoint
    from cellengine.spec import ModelSpec

    state = load_checkpoint(checkpoint)
    module = build(read_config(state["network"], str(checkpoint))).to(device).train()
    spec = ModelSpec.from_json(state["spec"], str(checkpoint))
    shape = tuple((256 if len(spec.divisor) == 2 else 64) // d * d for d in spec.divisor)
    images = torch.rand(16, len(spec.channels), *shape, device=device)
    optimizer = torch.optim.AdamW(module.parameters(), 1e-4)
    times = []
    for turn in range(25):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = sum(v.float().square().mean() for v in module.logits(images).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.cuda.synchronize()
        if turn >= 5:
            times.append(time.perf_counter() - begun)
    return {
        "samples_per_s": len(images) / statistics.median(times),
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "side_px": list(shape),
    }


if __name__ == "__main__":
    main()
