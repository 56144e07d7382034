"""What single formats do beyond the conformance suite: colour, alpha, palettes, odd types, choices between images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from cellengine.errors import DeviceError, InputError, UsageError
from cellengine.geometry import Region
from cellengine.io import ImageSource, MemorySource, open_source
from cellengine.io.axes import Array
from cellengine.io.tiff import TiffSource

RGB = np.random.default_rng(0).integers(0, 256, (41, 53, 3)).astype(np.uint8)


def everything(source: ImageSource) -> Array:
    return source.read(Region.whole(source.shape))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_colour_pictures_are_rgb_channels(tmp_path: Path, mode: str, suffix: str) -> None:
    picture = Image.fromarray(RGB).quantize(256) if mode == "P" else Image.fromarray(RGB)
    if mode == "RGBA":
        picture.putalpha(Image.fromarray(RGB[..., 0]))
    if mode == "RGBA" and suffix == ".bmp":
        return
    picture.save(tmp_path / f"a{suffix}")
    source = open_source(tmp_path / f"a{suffix}")
    assert (source.axes, source.shape, source.is_rgb) == ("CYX", (3, 41, 53), True)
    assert source.channel_names == ("red", "green", "blue")
    np.testing.assert_array_equal(everything(source), np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0))


def test_grey_palette_one_bit_and_grey_alpha_pictures_are_grey(tmp_path: Path) -> None:
    grey = Image.fromarray(RGB[..., 0])
    palette = grey.copy()
    palette.putpalette([v for i in range(256) for v in (255 - i,) * 3])
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(everything(open_source(tmp_path / "palette.png")), 255 - RGB[..., 0])
    grey.point(lambda v: 255 * (v > 99), mode="1").save(tmp_path / "bit.png")
    source = open_source(tmp_path / "bit.png")
    assert source.dtype == np.uint8
    np.testing.assert_array_equal(everything(source), RGB[..., 0] > 99)
    with_alpha = grey.convert("LA")
    with_alpha.save(tmp_path / "la.png")
    np.testing.assert_array_equal(everything(open_source(tmp_path / "la.png")), RGB[..., 0])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_deep_pngs_keep_their_sixteen_bits(tmp_path: Path, channels: int) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (20, 30, channels)).astype(np.uint16)
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(deep.squeeze()))
    source = open_source(tmp_path / "deep.png")
    assert source.dtype == np.uint16
    expected = deep[..., 0] if channels < 3 else np.moveaxis(deep[..., :3], -1, 0)
    np.testing.assert_array_equal(everything(source), expected)


def test_jpeg_is_read_as_pillow_reads_it(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg", quality=90)
    expected = np.moveaxis(np.asarray(Image.open(tmp_path / "a.jpg")), -1, 0)
    np.testing.assert_array_equal(everything(open_source(tmp_path / "a.jpg")), expected)
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "cmyk.jpg")
    with pytest.raises(InputError, match="CMYK"):
        open_source(tmp_path / "cmyk.jpg")


def test_a_picture_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "real.png")
    (tmp_path / "misnamed.jpg").write_bytes((tmp_path / "real.png").read_bytes())
    np.testing.assert_array_equal(everything(open_source(tmp_path / "misnamed.jpg")), np.moveaxis(RGB, -1, 0))
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(InputError, match="not a PNG, JPEG or BMP"):
        open_source(tmp_path / "text.png")


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("options", [{}, {"tile": (16, 16), "compression": "zlib"}, {"byteorder": ">"}])
def test_colour_tiffs(tmp_path: Path, planar: str, alpha: bool, options: dict[str, object]) -> None:
    pixels = np.dstack([RGB, RGB[..., 0]]) if alpha else RGB
    stored = pixels if planar == "contig" else np.moveaxis(pixels, -1, 0)
    extra = {"extrasamples": ["unassalpha"]} if alpha else {}
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar, **extra, **options)
    source = open_source(tmp_path / "a.tif")
    assert (source.axes, source.shape, source.is_rgb) == ("CYX", (3, 41, 53), True)
    np.testing.assert_array_equal(everything(source), np.moveaxis(RGB, -1, 0))
    part = Region((1, 3, 40), (3, 30, 47))
    np.testing.assert_array_equal(source.read(part), np.moveaxis(RGB, -1, 0)[part.slices])


@pytest.mark.parametrize(
    "compression", ["jpeg", "jpeg2000", "webp", "jpegxl", "png", "lzma", "packbits", "zstd", "lerc"]
)
@pytest.mark.parametrize("tile", [None, (16, 32)])
def test_whatever_tifffile_decodes_is_decoded_alike(
    tmp_path: Path, compression: str, tile: tuple[int, int] | None
) -> None:
    smooth = np.asarray(Image.fromarray(RGB).resize((83, 67), Image.Resampling.BICUBIC))
    tifffile.imwrite(tmp_path / "a.tif", smooth, photometric="rgb", compression=compression, tile=tile)
    expected = np.moveaxis(tifffile.imread(tmp_path / "a.tif"), -1, 0)
    source = open_source(tmp_path / "a.tif")
    assert source.is_rgb
    for region in (Region((0, 20, 30), (3, 37, 71)), Region((1, 66, 0), (2, 67, 83)), Region.whole((3, 67, 83))):
        np.testing.assert_array_equal(source.read(region), expected[region.slices])


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8", "u8"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_number_types_in_either_byte_order(tmp_path: Path, dtype: str, byteorder: str) -> None:
    array = np.arange(40 * 30).reshape(40, 30).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, byteorder=byteorder)
    source = open_source(tmp_path / "a.tif")
    assert source.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(everything(source), array)
    np.testing.assert_array_equal(source.read(Region((3, 4), (5, 29))), array[3:5, 4:29])


def test_packed_bits_are_unpacked(tmp_path: Path) -> None:
    bits = RGB[..., 0] > 99
    Image.fromarray(bits).save(tmp_path / "bit.tif")
    Image.fromarray(bits).save(tmp_path / "fax.tif", compression="group4")
    for name in ("bit.tif", "fax.tif"):
        source = open_source(tmp_path / name)
        assert source.dtype == np.uint8
        np.testing.assert_array_equal(everything(source), bits)
    twelve = np.random.default_rng(0).integers(0, 4096, (40, 50)).astype(np.uint16)
    packed = imagecodecs.packints_encode(twelve, 12)
    tifffile.imwrite(
        tmp_path / "12.tif", iter([packed]), shape=(40, 50), dtype=np.uint16, bitspersample=12, rowsperstrip=40
    )
    np.testing.assert_array_equal(everything(open_source(tmp_path / "12.tif")), twelve)


@pytest.mark.parametrize("size", [(1, 1), (1, 97), (97, 1), (2, 3), (101, 103)])
def test_tiny_and_prime_sized_pictures(tmp_path: Path, size: tuple[int, int]) -> None:
    array = np.arange(np.prod(size), dtype=np.uint16).reshape(size)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", compression="zlib")
    Image.fromarray(array).save(tmp_path / "a.png")
    for name in ("a.tif", "a.png"):
        source = open_source(tmp_path / name)
        assert source.shape == size
        np.testing.assert_array_equal(everything(source), array)


def test_a_folder_that_is_named_like_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tif").mkdir()
    with pytest.raises(InputError, match="OME-Zarr folder"):
        open_source(tmp_path / "a.tif")


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "complex.tif", np.zeros((8, 8), np.complex64))
    with pytest.raises(InputError, match="complex64"):
        open_source(tmp_path / "complex.tif")
    with pytest.raises(InputError, match="empty"):
        open_source(np.zeros((0, 5)))
    with pytest.raises(UsageError, match="no such file"):
        open_source(tmp_path / "absent.tif")
    (tmp_path / "a.docx").touch()
    with pytest.raises(InputError, match=r"\.tif"):
        open_source(tmp_path / "a.docx")
    (tmp_path / "a.tif").touch()
    with pytest.raises(InputError, match="empty"):
        open_source(tmp_path / "a.tif")


def test_a_file_with_several_images_asks_which(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as tif:
        tif.write(np.zeros((9, 8), np.uint8), metadata={"Name": "first"})
        tif.write(np.ones((5, 6), np.uint16), metadata={"Name": "second"})
    with pytest.raises(InputError, match=r"--dataset: 0 \(first.*1 \(second"):
        open_source(tmp_path / "two.ome.tif")
    for name in ("second", "1"):
        source = open_source(tmp_path / "two.ome.tif", dataset=name)
        assert (source.shape, source.dtype) == ((5, 6), np.uint16)
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["raw"], file["label"] = np.zeros((3, 4, 5)), np.zeros((3, 4, 5), np.uint16)
    with pytest.raises(InputError, match=r"label \(3, 4, 5\), raw \(3, 4, 5\)"):
        open_source(tmp_path / "two.h5")
    assert open_source(tmp_path / "two.h5", dataset="label", axes="ZYX").dtype == np.uint16
    with pytest.raises(InputError, match="not among"):
        open_source(tmp_path / "two.h5", dataset="Raw")


def test_channel_names_come_from_the_file(tmp_path: Path) -> None:
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((2, 9, 8), np.uint8), photometric="minisblack", metadata=metadata)
    assert open_source(tmp_path / "a.ome.tif").channel_names == ("DAPI", "GFP")


def test_single_planes_channels_and_times_are_dropped(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((1, 1, 1, 1, 8), np.uint8), metadata={"axes": "TCZYX"})
    source = open_source(tmp_path / "a.ome.tif")
    assert (source.axes, source.shape) == ("YX", (1, 8))
    assert MemorySource(np.zeros((1, 9, 8)), "ZYX").axes == "YX"
    assert MemorySource(np.zeros((3, 1, 9, 8)), "TZYX").shape == (3, 9, 8)


def test_the_users_axes_win_over_the_files(tmp_path: Path) -> None:
    stack = np.arange(4 * 9 * 8, dtype=np.uint16).reshape(4, 9, 8)
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, photometric="minisblack", metadata={"axes": "ZYX"})
    assert open_source(tmp_path / "a.ome.tif", axes="TYX").axes == "TYX"
    turned = open_source(tmp_path / "a.ome.tif", axes="xzy")
    assert (turned.axes, turned.shape) == ("ZYX", (9, 8, 4))
    np.testing.assert_array_equal(everything(turned), stack.transpose(1, 2, 0))
    for wrong in ("ZYXC", "ZZYX", "ZCT", "QYX"):
        with pytest.raises(InputError, match="does not fit"):
            open_source(tmp_path / "a.ome.tif", axes=wrong)


def test_arrays_without_axes_are_only_taken_when_clear() -> None:
    assert open_source(np.zeros((9, 8))).axes == "YX"
    assert open_source(RGB).is_rgb
    for array in (np.zeros((5, 9, 8)), np.zeros((9, 8, 3)), np.zeros((2, 9, 8, 3), np.uint8)):
        with pytest.raises(InputError, match="--axes"):
            open_source(array)


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((300, 300), "INCH", None),
        ((72, 72), "INCH", None),
        ((40000, 20000), "CENTIMETER", (0.5, 0.25)),
        ((1, 1), "NONE", None),
    ],
)
def test_print_resolutions_are_no_voxel_sizes(
    tmp_path: Path, resolution: tuple[int, int], unit: str, expected: tuple[float, ...] | None
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", resolution=resolution, resolutionunit=unit)
    assert open_source(tmp_path / "a.tif").voxel_size_um == expected


def test_a_pyramids_other_levels_and_thumbnails_are_not_taken_for_images(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(RGB, photometric="rgb", metadata=None)
        tif.write(RGB[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
    assert open_source(tmp_path / "a.tif").shape == (3, 41, 53)


def test_absent_tiles_are_counted_and_read_as_zero(tmp_path: Path) -> None:
    tiles = iter([np.ones((16, 16), np.uint8), None, None, np.ones((16, 16), np.uint8)])
    tifffile.imwrite(tmp_path / "a.tif", tiles, shape=(32, 32), dtype=np.uint8, tile=(16, 16), compression="zlib")
    source = open_source(tmp_path / "a.tif")
    assert source.missing_chunks() == 2
    assert everything(source).sum() == 2 * 16 * 16


def test_absent_zarr_chunks_are_counted(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=(64, 64), chunks=(16, 16), dtype="u2", fill_value=0)
    array[:32] = 7
    source = open_source(tmp_path / "a.zarr")
    assert source.missing_chunks() == 8
    assert everything(source)[32:].sum() == 0


def test_a_tiff_region_decodes_only_the_tiles_it_touches_and_each_once(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 9, (512, 512)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, tile=(64, 64), compression="zlib")
    source = open_source(tmp_path / "a.tif", cache_bytes=1 << 20)
    assert isinstance(source, TiffSource)
    source.read(Region((100, 100), (150, 160)))
    assert source._cache.nbytes == 4 * 64 * 64 * 2
    source.read(Region((64, 64), (192, 192)))
    assert source._cache.nbytes == 4 * 64 * 64 * 2
    source.read(Region((0, 0), (500, 512)))
    assert source._cache.nbytes <= 1 << 20


def test_a_missing_reader_says_how_to_get_it(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules['bioio_czi'] = None\n"
        "from cellengine.io import open_source\n"
        "from cellengine.errors import DeviceError\n"
        "try:\n    open_source(sys.argv[1])\nexcept DeviceError as error:\n    print(error)\n"
    )
    (tmp_path / "a.czi").write_bytes(b"ZISRAWFILE")
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a.czi"], capture_output=True, text=True, check=True
    )
    assert 'pip install "cellengine[formats]"' in done.stdout
    assert DeviceError.exit_code == 5


def test_old_matlab_files_are_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(128))
    with pytest.raises(InputError, match=r"-v7\.3"):
        open_source(tmp_path / "a.mat")
