"""A detector through the one loop: it trains, validates with the production decoder, keeps what export needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from cellengine.errors import InputError
from cellengine.models import build, read_config
from cellengine.models.checkpoint import load_checkpoint
from cellengine.spec import ModelSpec
from cellengine.train.config import TrainConfig, load_config
from cellengine.train.data import read_pictures
from cellengine.train.detection.samples import ObjectSamples
from cellengine.train.loop import Losses, train
from cellengine.train.optimizer import begin_phase
from cellengine.train.recipes.detections import Detections, measure_pixels
from tests.synthetic import write_annotated

TINY = (
    "epochs=2",
    "batch=2",
    "validate_every=2",
    "preview_every=2",
    "data.workers=0",
    "data.samples_per_epoch=4",
    "data.crop_px=[64, 64]",
    "data.balance_by=''",
    "tile=[128, 128]",
    "optimizer.warmup_steps=0",
    "model.width=8",
    "model.pyramid=8",
    "model.box_features=16",
    "model.mask_features=8",
    "model.candidates=40",
    "model.proposals=40",
    "model.detections=20",
    "model.suppression_depth=4",
    "detection.objects=20",
    "detection.anchors=32",
    "detection.candidates=40",
    "detection.proposals=40",
    "detection.boxes=24",
)


def tiny_config(folder: Path, *more: str) -> TrainConfig:
    return load_config("nuclei-maskrcnn", [*TINY, f"data.path={str(folder)!r}", *more])


def test_a_run_trains_validates_and_keeps_what_export_needs(tmp_path: Path) -> None:
    config = tiny_config(write_annotated(tmp_path / "data", 4), "heads_only_epochs=1")
    best = load_checkpoint(train(config, tmp_path / "run"))
    header, *rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    terms = {"loss_objectness", "loss_anchor_box", "loss_class", "loss_box", "loss_mask", "loss_total"}
    assert {*terms, "val_mean_ap", "val_ap50"} <= set(header.split(","))
    assert len(rows) == 2
    spec = ModelSpec.from_json(best["spec"], "best.pt")
    assert spec.task == "detection"
    assert all(h >= 0.75 * spec.object_size_px for h in spec.halo)
    assert all(h % d == 0 for h, d in zip(spec.halo, spec.divisor, strict=True))
    module = build(read_config(best["network"], "best.pt"))
    module.load_state_dict(best["model"])
    mean, std = measure_pixels(read_pictures(config).train)
    torch.testing.assert_close(module.pixel_mean, mean)
    torch.testing.assert_close(module.pixel_std, std)
    body = [name for name in best["model"] if name.startswith("backbone.body.") and name.endswith("weight")]
    assert body


def test_samples_depend_on_their_number_and_have_one_shape(tmp_path: Path) -> None:
    config = tiny_config(write_annotated(tmp_path, 4))
    pictures = read_pictures(config).train
    first, second = (ObjectSamples(pictures, config, config.model) for _ in range(2))  # type: ignore[arg-type]
    shapes = [[tuple(t.shape) for t in first[i]] for i in (3, 0, 5)]
    assert shapes[0] == shapes[1] == shapes[2]
    for a, b in zip(first[3], second[3], strict=True):
        assert torch.equal(a, b)
    image, objects, boxes, _, state, _ = first[3]
    assert image.shape == (3, 64, 64)
    for number in range(1, int(objects.max()) + 1):
        y, x = (objects == number).nonzero().T
        assert boxes[number - 1].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    assert (state == 1).any()


def test_frozen_norms_neither_measure_nor_learn(tmp_path: Path) -> None:
    config = tiny_config(write_annotated(tmp_path, 4))
    module = build(config.model)
    begin_phase(module, norm_rests=True)
    norms = [part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(part.training or part.weight.requires_grad for part in norms)


def test_frozen_norms_train_in_several_processes(tmp_path: Path) -> None:
    """DistributedDataParallel waits for the gradient of every weight that learns when it is made: none may drop out."""
    config = tiny_config(write_annotated(tmp_path, 4), "detection.freeze_norm=true", "precision=fp32")
    recipe = Detections(config)
    module = build(config.model)
    begin_phase(module, norm_rests=config.norm_rests)
    address = f"file://{tmp_path}/meeting"
    torch.distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    try:
        losses = torch.nn.parallel.DistributedDataParallel(Losses(module, recipe))
        batch = [part[None] for part in recipe.samples[0]]
        for _ in range(3):
            torch.stack(list(losses(*batch).values())).sum().backward()
    finally:
        torch.distributed.destroy_process_group()


def test_only_detectors_of_one_class_are_trained(tmp_path: Path) -> None:
    config = tiny_config(write_annotated(tmp_path, 4))
    with pytest.raises(InputError, match="mask_rcnn"):
        Detections(replace(config, model=replace(config.model, classes=2)))
    for preset in ("nuclei-maskrcnn", "nuclei-maskrcnn-128", "nuclei-maskrcnn-512"):
        assert load_config(preset).task == "detection"
