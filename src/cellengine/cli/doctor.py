"""`cellengine doctor`: what this machine can run, what is missing, and proof that models compute right here."""

from __future__ import annotations

import platform
import sys
import time
from importlib.metadata import version

import click

from cellengine.cli.tables import print_table
from cellengine.engine.backends import BACKENDS, Candidate, available, cache_folder, kept_choice
from cellengine.engine.backends.hardware import cpu_count, cpu_flags, cpu_name, cuda_devices, memory_limit
from cellengine.engine.backends.proofs import keep_proof
from cellengine.engine.backends.wheels import both_wheels, installed
from cellengine.engine.golden import GoldenResult, check_golden
from cellengine.engine.model_file import ModelFile, read_model_file, resolve_model
from cellengine.errors import CellengineError, DeviceError
from cellengine.zoo import bundled

FAST_FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx_vnni": "AVX-VNNI",
              "avx512_bf16": "AVX-512 BF16", "amx_bf16": "AMX BF16", "amx_int8": "AMX INT8"}  # fmt: skip
"""as Linux names them -> as people do"""

LIBRARIES = {
    "numpy": "pip install numpy",
    "numba": "pip install numba",
    "onnx": "pip install onnx",
    "openvino": "pip install openvino",
    "tifffile": "pip install tifffile",
    "zarr": "pip install zarr",
    "h5py": "pip install h5py",
    "tensorrt": "pip install 'cellengine[tensorrt]' (only for NVIDIA devices)",
    "tensorrt-rtx": "pip install 'cellengine[tensorrt-rtx]' (only for NVIDIA RTX workstations)",
    "torch": "pip install 'cellengine[train]' (only to train and export)",
    "bioio": "pip install 'cellengine[formats]' (only for CZI, ND2 and LIF)",
}
"""package -> the command that brings it; onnxruntime comes in two wheels and is looked at by itself"""

GOLDEN_COLUMNS = ("model", "backend", "device", "precision", "answer", "largest", "mean", "tile")


@click.command()
@click.argument("model", required=False)
def command(model: str | None) -> None:
    """Check what this machine can run, and prove it with the golden test of MODEL, by default of every bundled one.

    The test compares what the model answers here, on each backend and in each verified precision, with what it
    answered where it was exported. A difference ends with exit code 5. fp16 and int8 that could not be run where the
    model was exported may be used here once they pass.
    """
    files = [read_model_file(resolve_model(name)) for name in ([model] if model else bundled())]
    print_table("Machine", ("", ""), _machine_rows(), headed=False)
    print_table("\nLibraries", ("package", "version"), _library_rows())
    print_table(
        "\nBackends", ("backend", "version", "devices and precisions"), [_backend_row(name) for name in BACKENDS]
    )
    for problem in _wheel_problems():
        click.echo(f"\nproblem: {problem}")
    failed = sum(_test_model(file, explain=model is not None) for file in files)
    if failed:
        raise DeviceError(
            f"{failed} golden tests failed: what is computed here differs from what was exported; "
            "do not trust these combinations, and take --backend and --precision from those that passed."
        )


def _machine_rows() -> list[tuple[str, str]]:
    fast = [name for flag, name in FAST_FLAGS.items() if flag in cpu_flags()]
    return [
        ("cellengine", version("cellengine")),
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("Python", f"{platform.python_version()} ({sys.executable})"),
        ("processor", f"{cpu_name()}, {cpu_count()} usable"),
        ("instructions", ", ".join(fast) or "unknown"),
        ("memory", f"{memory_limit() / 2**30:.1f} GiB usable"),
        ("NVIDIA", f"{cuda_devices()} devices" if cuda_devices() else "no driver or no device"),
        ("cache folder", str(cache_folder())),
    ]


def _library_rows() -> list[tuple[str, str]]:
    return [(name, installed(name) or f"missing: {install}") for name, install in LIBRARIES.items()]


def _backend_row(name: str) -> tuple[str, str, str]:
    try:
        backend = BACKENDS[name]()
    except DeviceError as error:
        return name, "missing", str(error)
    devices = [f"{device}: {', '.join(backend.precisions(device))}" for device in backend.devices()]
    return name, backend.version(), "; ".join(devices)


def _wheel_problems() -> list[str]:
    if problem := both_wheels():
        return [problem]
    if installed("onnxruntime-gpu") is None and cuda_devices():
        return [
            "this machine has an NVIDIA device and onnxruntime is built without CUDA: "
            "run `pip uninstall -y onnxruntime`, then `pip install 'onnxruntime-gpu[cuda,cudnn]'`."
        ]
    return []


def _test_model(model: ModelFile, explain: bool) -> int:
    """Print the golden test of a model on everything that may run it; how many failed. `explain` what may not."""
    candidates = available(model)
    if model.golden is None:
        click.echo(f"\n{model.path.name} carries no golden test; export it again to have one.")
        return 0
    rows, failed = [], 0
    for candidate in candidates:
        if candidate.model is None:
            continue
        row, passed = _test(candidate, candidate.model)
        rows.append(row)
        failed += not passed
    print_table(f"\nGolden test of {model.path.name}", GOLDEN_COLUMNS, rows)
    for candidate in candidates if explain else []:
        if candidate.model is None:
            click.echo(
                f"not tried: {candidate.backend} {candidate.precision} on {candidate.device}: {candidate.problem}"
            )
    click.echo(_auto_line(available(model)))
    return failed


def _test(candidate: Candidate, model: ModelFile) -> tuple[tuple[str, ...], bool]:
    who = (model.path.name, candidate.backend, candidate.device, candidate.precision)
    if model.golden is None:
        return (*who, "carries no test", "-", "-", "-"), True
    try:
        with BACKENDS[candidate.backend]().open(model, candidate.device, candidate.precision, None) as session:
            result = check_golden(session, model.golden)
            if result.passed and candidate.problem:
                _unlock(candidate, model, result)
            start = time.perf_counter()
            check_golden(session, model.golden)
            seconds = time.perf_counter() - start
    except CellengineError as error:
        return (*who, f"failed: {error}", "-", "-", "-"), False
    answer = "as exported" if result.passed else f"failed: {result.problem}"
    if result.passed and candidate.problem:
        answer += ", unlocked"
    numbers = (f"{result.largest:.1g}", f"{result.mean:.1g}", f"{1e3 * seconds:.0f} ms")
    return (*who, answer, *numbers), result.passed


def _unlock(candidate: Candidate, model: ModelFile, result: GoldenResult) -> None:
    """A precision that was only checked elsewhere computes the same here: it may be used from now on."""
    library = BACKENDS[candidate.backend]().version()
    keep_proof(model, candidate.backend, library, candidate.device, candidate.precision, result)


def _auto_line(candidates: list[Candidate]) -> str:
    path, choice = kept_choice(candidates)
    if choice is None:
        return "auto: not chosen yet; the first infer times the candidates"
    backend, device, precision = choice.combination
    timed = ", ".join(
        f"{t.backend} {t.precision} on {t.device} {1e3 * t.seconds:.0f} ms"
        for t in choice.timings
        if t.seconds is not None
    )
    return f"auto: {backend} {precision} on {device} (a tile takes: {timed}; delete {path} to time again)"
