"""Real files of microscopes and other programs: read with the shape that their index states, or refused in one line."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from cellengine.errors import InputError
from cellengine.geometry import Region
from cellengine.io import find_inputs, open_source

pytestmark = pytest.mark.data


@dataclass(frozen=True)
class Expected:
    """What a file must read as; `refused` is part of the message where it cannot be read by itself."""

    axes: str = "YX"
    shape: tuple[int, ...] = ()
    voxel_size_um: tuple[float, ...] | None = None
    refused: str = ""
    options: dict[str, str] = field(default_factory=dict)
    """what the user adds after the refusal"""


NO_NAMES = "does not say what its dimensions"
EXPECTED = {
    "tiff_imagej/xyzc_16bit__dna_conf_wf.tif": Expected("CZYX", (2, 45, 130, 133), (0.499, 0.512, 0.512)),
    "tiff_imagej/xyz_8bit__nuclei_autothresh.tif": Expected("ZYX", (37, 118, 132), (4.0, 0.829, 0.829)),
    "tiff_imagej/xyz_8bit__mitotic_plate_badZcalibrated.tif": Expected("ZYX", (6, 263, 263)),
    "tiff_imagej/xyz_8bit__mitotic_plate_calibrated.tif": Expected("ZYX", (6, 263, 263), (3.0, 0.0852, 0.0852)),
    "tiff_imagej/xyz_nuclear_envelope_drosophila.tif": Expected("ZYX", (14, 224, 305)),
    "tiff_imagej/xyc_8bit__tub_h2b_cecog_battery.tif": Expected("CYX", (2, 1040, 1392)),
    "tiff_imagej/xyc_16bit__membranes_nuclei_hot_pixel.tif": Expected("CYX", (2, 354, 475)),
    "tiff_imagej/xy_16bit__scanR_datatype_issue.tif": Expected("YX", (1024, 1344)),
    "tiff_imagej/xy_12bit__saturated_plant.tif": Expected("YX", (512, 512), (2.486, 2.486)),
    "tiff_imagej/xy_float__nuclei_probability.tif": Expected("YX", (50, 59)),
    "tiff_imagej/xy_8bit__mitocheck_incenp_t1.tif": Expected("YX", (364, 260), (0.1, 0.1)),
    "tiff_imagej/IXMtest_A02_s9.tif": Expected("CYX", (3, 395, 695)),
    "tiff_imagej/CH3_Fluorescence_8bit.tif": Expected("CYX", (3, 272, 275)),
    "tiff_imagej/5channel.tif": Expected("CYX", (5, 64, 64)),
    "tiff_other/MetamorphImage.tif": Expected("YX", (520, 696), (0.645, 0.645)),
    "tiff_other/NikonTIF.tif": Expected("CYX", (3, 731, 805)),
    "ome_tiff/FOV7_HV110_P0500510000.ome.tiff": Expected("YX", (512, 512)),
    "ome_tiff/multi-channel.ome.tif": Expected("CYX", (3, 167, 439)),
    **{f"ome_tiff/multifile-Z{i}.ome.tiff": Expected("YX", (24, 18), (1.0, 1.0)) for i in range(1, 6)},
    "czi/s_1_t_1_c_1_z_1.czi": Expected("YX", (325, 475), (1.083, 1.083)),
    "czi/RGB-8bit.czi": Expected("CYX", (3, 624, 924), (1.083, 1.083)),
    "czi/RGB-multichannel.czi": Expected(refused="several channels of colour"),
    "czi/tiles_z.czi": Expected("CZYX", (2, 2, 512, 510), (4.0, 0.830, 0.830)),
    "czi/CellDivision_T3_Z6_CH1_X300_Y200_DCV_ZSTD.czi": Expected("TZYX", (3, 6, 200, 300), (0.32, 0.0906, 0.0906)),
    "czi/DAPI_GFP.czi": Expected(refused="distance scale"),
    "czi/LLS7_small.czi": Expected("TCZYX", (2, 2, 3, 64, 64), (0.145, 0.145, 0.145)),
    "czi/LSM880_AiryScan.czi": Expected(refused=NO_NAMES),
    "czi/WellD6-7_S2.czi": Expected("YX", (440, 544), (0.1, 0.1), refused="2 scenes", options={"dataset": "D7-D7"}),
    "czi/newCZI_compressed.czi": Expected("YX", (512, 512)),
    "czi/nuc_small_new_red.czi": Expected("YX", (240, 320), (0.1, 0.1)),
    "czi/100x100.czi": Expected("YX", (10, 10), (0.1, 0.1)),
    "czi/xyz__multiple_images.czi": Expected(
        "ZYX", (2, 251, 251), (0.3, 0.196, 0.196), refused="2 scenes", options={"dataset": "1"}
    ),
    "lif/testdata_2channel_xz.lif": Expected(refused="3 scenes"),
    "lif/LeicaLASX_wavelength-sweep_example.lif": Expected(refused="3 scenes"),
    "nd2/cluster.nd2": Expected("TCZYX", (3, 2, 10, 31, 38), (0.5, 0.168, 0.168)),
    "zarr/bioformats2raw": Expected("CYX", (3, 167, 439)),
    "zarr/blobs_image_v04.ome.zarr": Expected("CYX", (3, 12, 12)),
    "zarr/blobs_image_v05.ome.zarr": Expected("CYX", (3, 12, 12)),
    "png_bmp/00071198d059ba7f_rgba.png": Expected("CYX", (3, 256, 256)),
    "png_bmp/00ae65c1c6631ae6_rgba.png": Expected("CYX", (3, 256, 320)),
    "png_bmp/wbc1_002.bmp": Expected("CYX", (3, 120, 120)),
    "png_bmp/wbc1_003.bmp": Expected("CYX", (3, 120, 120)),
    "png_bmp/livedead_rgba.png": Expected("CYX", (3, 219, 225)),
    "png_bmp/livedead_p.png": Expected("YX", (219, 225)),
    "png_bmp/livedead_i16.png": Expected("YX", (220, 220)),
    "reencoded/embryo_tzyx_bigtiff.ome.tif": Expected("TZYX", (4, 51, 124, 127), (1.75, 0.8, 0.8)),
    "reencoded/embryo_lzw_bigendian.tif": Expected("ZYX", (20, 124, 127), refused=NO_NAMES, options={"axes": "ZYX"}),
    "reencoded/embryo_imagej_tzyx_crop.tif": Expected("TZYX", (4, 15, 64, 64)),
    "reencoded/embryo_float32_zstd.tif": Expected("TYX", (20, 124, 127), refused=NO_NAMES, options={"axes": "TYX"}),
    "reencoded/cecog_pyramid_tiled.ome.tif": Expected("CYX", (2, 700, 900)),
    "reencoded/wbc_planar_rgb_packbits.tif": Expected("CYX", (3, 120, 120)),
    "reencoded/ixm_cyx_v04.ome.zarr": Expected("CYX", (3, 395, 695)),
    "reencoded/embryo_tzyx_v05.ome.zarr": Expected("TZYX", (2, 30, 124, 127), (1.75, 0.8, 0.8)),
}
PICTURE_MODES = {"I;16": "uint16", "P": "uint8", "RGB": "uint8", "RGBA": "uint8"}
ELSEWHERE = {"zarr/bioformats2raw": "zarr/bioformats2raw/data.zarr"}
COLOUR = ("NikonTIF", "RGB-8bit", "rgba", "wbc", "planar_rgb")
OPTIONAL = {"czi": "bioio_czi", "lif": "bioio_lif", "nd2": "bioio_nd2"}


@pytest.fixture(scope="module")
def index(data: Path) -> dict[str, dict[str, str]]:
    with (data / "formats" / "index.csv").open(newline="", encoding="utf-8") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def test_every_file_of_the_index_is_tried(index: dict[str, dict[str, str]]) -> None:
    assert {path for path in index if not path.startswith("sequence/")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_real_file_is_read_right_or_refused_in_one_line(
    data: Path, index: dict[str, dict[str, str]], name: str
) -> None:
    expected, path = EXPECTED[name], data / "formats" / ELSEWHERE.get(name, name)
    kind = name.split("/")[0]
    if kind in OPTIONAL:
        pytest.importorskip(OPTIONAL[kind], reason=f"{kind} needs the extra 'formats'")
    if expected.refused:
        with pytest.raises(InputError, match=expected.refused) as refusal:
            open_source(path)
        assert "\n" not in str(refusal.value)
    if not expected.shape:
        return
    with open_source(path, **expected.options) as source:
        assert (source.axes, source.shape) == (expected.axes, expected.shape)
        stated = index[name]["dtype"]
        assert source.dtype == np.dtype(PICTURE_MODES.get(stated, stated))
        assert source.voxel_size_um == (expected.voxel_size_um and pytest.approx(expected.voxel_size_um, rel=5e-3))
        assert source.is_rgb == any(part in name for part in COLOUR)
        numbers = [int(n) for n in re.findall(r"\d+", index[name]["shape"].split("(decode")[0])]
        whole = source.read(Region.whole(source.shape))
        if kind not in ("czi", "nd2"):  # there the index counts axes that are dropped, and scenes
            assert sorted(n for n in numbers if n != 1)[-2:] == sorted(source.shape)[-2:] or whole.size == np.prod(
                numbers
            )
        assert whole.max() > whole.min()
        corner = Region(tuple(n // 2 for n in source.shape), source.shape)
        np.testing.assert_array_equal(source.read(corner), whole[corner.slices])


def test_colours_of_a_czi_are_red_green_blue(data: Path) -> None:
    pytest.importorskip("bioio_czi", reason="CZI needs the extra 'formats'")
    with open_source(data / "formats" / "czi" / "RGB-8bit.czi") as source:
        means = source.read(Region.whole(source.shape)).mean(axis=(1, 2))
    np.testing.assert_allclose(means, [13.809, 28.025, 14.771], atol=1e-3)


@pytest.mark.parametrize("name", ["x_y_lambdaEmi", "xzt"])
def test_lif_scans_that_are_no_planes_are_refused(data: Path, name: str) -> None:
    pytest.importorskip("bioio_lif", reason="LIF needs the extra 'formats'")
    for path in sorted((data / "formats" / "lif").iterdir()):
        with pytest.raises(InputError):
            open_source(path, dataset=name)


def test_a_folder_of_planes_is_a_list_of_pictures(data: Path) -> None:
    files = find_inputs([data / "formats" / "sequence"])
    assert len(files) == 21 + 30
    assert files[0].relative.parts[0] == "em_z_series"


@pytest.mark.parametrize("name", ["ovule_nuclei/1135.h5", "ovule_cells/sample_ovule.h5"])
def test_volumes_with_raw_and_labels_ask_which(data: Path, name: str) -> None:
    path = data / "volumes" / name
    with pytest.raises(InputError, match=r"--dataset NAME: label \(.*raw \("):
        open_source(path)
    with open_source(path, dataset="raw") as source:
        assert (source.axes, source.dtype) == ("ZYX", np.uint8)
        assert source.voxel_size_um is not None
