"""How much faster is each precision, and what does it keep? OpenVINO and onnxruntime on one tile, side by side.

    python benchmarks/precision.py [--model nuclei nuclei3d ...] [--side 512] [--runs 9]

The tile has as many voxels as a square of that side, 0 for the model's own tile, and the halo of a run where it fits.

What the ratios are depends on the processor's instructions (AMX, AVX-512 BF16, VNNI), which the result names.

Forms (fp16, int8) are measured where they lie beside the model; `cellengine export` makes them.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from math import prod
from typing import Any

from _timing import paired, ratio, write_result
from cellengine.engine.backends import BACKENDS, available
from cellengine.engine.backends.hardware import cpu_flags
from cellengine.engine.flow import Stop, overlap
from cellengine.engine.golden import golden_input
from cellengine.engine.model_file import read_model_file, resolve_model
from cellengine.engine.options import InferOptions
from cellengine.engine.plan import plan_halo

INSTRUCTIONS = {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8"}


def measure(name: str, side: int, runs: int) -> dict[str, Any]:
    """Seconds a tile of every combination that may run here, each in turn, with as many callers as are useful."""
    model = read_model_file(resolve_model(name))
    spec = model.spec
    voxels = side * side or prod(spec.tile)
    shrink = (voxels / prod(spec.tile)) ** (1 / len(spec.tile))
    tile = tuple(max(d, round(t * shrink / d) * d) for t, d in zip(spec.tile, spec.divisor, strict=True))
    batch = golden_input(len(spec.channels), tile)
    halo = plan_halo(spec, InferOptions())
    fits = spec.answers_voxels and all(2 * h < n for h, n in zip(halo, tile, strict=True))
    used = halo if fits else None
    with ExitStack() as opened:
        functions = {}
        proofs = {}
        for c in available(model, device="cpu"):
            if c.model is None or c.problem:
                continue
            session = opened.enter_context(BACKENDS[c.backend]().open(c.model, c.device, c.precision, None))
            key = f"{c.backend}_{c.precision}"
            calls = range(2 * session.concurrency)

            def run(session: Any = session, calls: range = calls) -> None:
                for _ in overlap(lambda _: session.run(batch, used) and None, calls, session.concurrency, Stop()):
                    pass

            functions[key] = (run, len(calls))
            proofs[key] = [
                {"f1_at_80": p.f1_at_80, "mean_ap_change": p.mean_ap_change, "passed": p.passed, "dice": p.dice}
                for p in c.model.spec.parity
                if (p.backend, p.precision) == (c.backend, c.precision)
            ]
        times = paired({key: run for key, (run, _) in functions.items()}, runs)
    for key, (_, calls) in functions.items():
        times[key] = {k: [t / calls for t in v] if isinstance(v, list) else v / calls for k, v in times[key].items()}
    over_onnxruntime = {key: ratio(times, "onnxruntime_fp32", key) for key in times}
    over_bf16 = {key: ratio(times, "openvino_bf16", key) for key in times} if "openvino_bf16" in times else {}
    return {
        "tile": list(tile),
        "halo": list(halo) if fits else None,
        "times_over_onnxruntime_fp32": over_onnxruntime,
        "times_over_openvino_bf16": over_bf16,
        "parity": proofs,
        "seconds_a_tile": times,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", nargs="+", default=["nuclei"])
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"instructions": sorted(INSTRUCTIONS & cpu_flags())}
    figures |= {name: measure(name, arguments.side, arguments.runs) for name in arguments.model}
    write_result("precision", "Speed of each precision on a CPU beside what it keeps", figures)


if __name__ == "__main__":
    main()
