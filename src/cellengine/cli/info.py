"""`cellengine info`: what a model or a picture says of itself."""

from __future__ import annotations

from pathlib import Path

import click

from cellengine.cli.tables import print_table
from cellengine.engine.model_file import ModelFile, read_model_file, resolve_model
from cellengine.io import ImageSource, open_source
from cellengine.records import to_plain
from cellengine.spec import ModelSpec, Normalize, Parity
from cellengine.zoo import bundled

PARITY_COLUMNS = (
    "precision", "backend", "device", "passed", "pictures", "max. difference", "F1 at 0.8", "count", "mean AP", "Dice",
)  # fmt: skip


@click.command()
@click.argument("file")
@click.option("--axes", help="What the picture's axes are, in its order, where it does not say: e.g. ZYX, TYX, CYX.")
@click.option("--dataset", help="Which image of a file that holds several.")
def command(file: str, axes: str | None, dataset: str | None) -> None:
    """Say what is in FILE: a bundled model's name, a model.onnx, or a picture in any format that infer reads."""
    path = Path(file)
    if file in bundled() or path.suffix == ".onnx" or not (path.suffix or path.exists()):
        model = read_model_file(resolve_model(file))
        print_table(f"{model.path.name}: a model", ("", ""), _model_rows(model), headed=False)
        if model.spec.parity:
            print_table("\nParity with fp32 PyTorch", PARITY_COLUMNS, [_parity_row(p) for p in model.spec.parity])
        return
    with open_source(path, axes=axes, dataset=dataset) as source:
        print_table(f"{path.name}: a picture", ("", ""), _picture_rows(source), headed=False)


def _model_rows(model: ModelFile) -> list[tuple[str, str]]:
    spec = model.spec
    rows = [
        ("name", spec.name),
        ("task", spec.task),
        ("channels", ", ".join(spec.channels)),
        ("voxel size", _voxel_size(spec.axes, spec.voxel_size_um) or _reduced(spec)),
        ("classes", ", ".join(spec.classes) or "-"),
        ("outputs", ", ".join(f"{o.name} ({o.channels})" if o.channels > 1 else o.name for o in spec.outputs)),
        ("decoder", _settings(spec.decoder)),
        ("normalisation", _normalisation(spec.normalize)),
        ("tile", f"{_per_axis(spec, spec.tile)} px, a multiple of {_per_axis(spec, spec.divisor)}"),
        ("halo", f"{_per_axis(spec, spec.halo)} px (auto), {_per_axis(spec, spec.receptive_field)} px (exact)"),
        ("object size", f"up to {spec.object_size_px:g} px"),
        ("metrics", ", ".join(f"{name} {value:.4g}" for name, value in spec.metrics.items()) or "-"),
        ("training data", spec.training_data or "-"),
        ("licence", spec.licence or "-"),
        ("made with", ", ".join(f"{name} {version}" for name, version in spec.versions.items()) or "-"),
        ("golden test", "yes" if model.golden else "none"),
        ("size", f"{len(model.content) / 1e6:.2f} MB"),
        ("SHA-256", model.sha256),
    ]
    if model.form:
        rows.insert(1, ("form", f"{model.form}, made from the model with SHA-256 {model.parent or 'unknown'}"))
    return rows


def _reduced(spec: ModelSpec) -> str:
    """What a model without a voxel size makes of pictures."""
    if spec.reduce is None:
        return "none: it takes pixels as they come"
    factors = zip(spec.axes.lower(), spec.reduce, strict=True)
    return f"none: it takes pictures made smaller, {', '.join(f'{axis} by {factor:g}' for axis, factor in factors)}"


def _parity_row(parity: Parity) -> tuple[str, ...]:
    def number(value: float | None, form: str = ".4f") -> str:
        return "-" if value is None else format(value, form)

    return (
        parity.precision,
        parity.backend,
        parity.device,
        "yes" if parity.passed else "no",
        str(parity.pictures),
        number(parity.max_difference, ".2g"),
        number(parity.f1_at_80),
        number(parity.count_difference, "+.2%"),
        number(parity.mean_ap_change, "+.4f"),
        number(parity.dice),
    )


def _picture_rows(source: ImageSource) -> list[tuple[str, str]]:
    spatial = "".join(axis for axis in source.axes if axis in "ZYX")
    channels = source.shape[source.axes.index("C")] if "C" in source.axes else 1
    names = ", ".join(source.channel_names)
    return [
        ("axes", source.axes),
        ("shape", " x ".join(map(str, source.shape))),
        ("dtype", str(source.dtype)),
        ("channels", f"{channels}, {'RGB' if source.is_rgb else names or 'without names'}"),
        (
            "voxel size",
            _voxel_size(spatial, source.voxel_size_um) or "unknown",
        ),
    ]


def _voxel_size(axes: str, size: tuple[float, ...] | None) -> str:
    return ", ".join(f"{axis.lower()} {um:g} um" for axis, um in zip(axes, size, strict=True)) if size else ""


def _per_axis(spec: ModelSpec, values: tuple[int, ...]) -> str:
    return ", ".join(f"{axis.lower()} {value}" for axis, value in zip(spec.axes, values, strict=True))


def _normalisation(normalize: Normalize) -> str:
    """How pictures are scaled, without the numbers that this way does not use."""
    unused = () if normalize.method in ("percentile", "constant") else ("low", "high")
    return _settings({name: value for name, value in to_plain(normalize).items() if name not in unused})


def _settings(record: object) -> str:
    """A record of settings in one line, its kind or method first."""
    plain = to_plain(record)
    kind = plain.pop("kind", None) or plain.pop("method", "")
    return f"{kind}: " + ", ".join(f"{name} {value}" for name, value in plain.items()) if plain else str(kind)
