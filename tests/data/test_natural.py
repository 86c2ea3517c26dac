"""Natural images and TIFF stacks: channels, palettes, precision, sidecars, damage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from ldseg_auto.data.image_io import read_image, read_label, write_label
from ldseg_auto.data.natural import count_channels
from ldseg_auto.errors import DatasetError, InputError

GREY = np.random.default_rng(0).integers(0, 256, (5, 6)).astype(np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (5, 6, 3)).astype(np.uint8)
STACK = np.random.default_rng(2).integers(0, 5, (4, 5, 6)).astype(np.uint8)
LOSSLESS = [".png", ".bmp", ".tif", ".tiff"]


def write_stack(path: Path, array: np.ndarray, spacing: object = None) -> Path:
    pages = [Image.fromarray(page) for page in array]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    if spacing is not None:
        path.with_name(path.stem + ".json").write_text(json.dumps({"spacing": spacing}))
    return path


@pytest.mark.parametrize("ending", LOSSLESS)
def test_grey(tmp_path, ending):
    path = tmp_path / f"a_0000{ending}"
    Image.fromarray(GREY).save(path)
    image = read_image([path])
    assert image.array.dtype == np.float32 and np.array_equal(image.array, GREY[None, None])
    assert image.spacing == (999.0, 1.0, 1.0)
    assert (image.geometry.shape, image.geometry.orientation, count_channels(path)) == ((1, 5, 6), "LPS", 1)


@pytest.mark.parametrize("ending", LOSSLESS)
def test_colour(tmp_path, ending):
    path = tmp_path / f"a_0000{ending}"
    Image.fromarray(COLOUR).save(path)
    assert np.array_equal(read_image([path]).array, np.moveaxis(COLOUR, -1, 0)[:, None])
    assert count_channels(path) == 3


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("ending", [".jpg", ".jpeg"])
def test_jpeg(tmp_path, mode, ending):
    Image.new(mode, (16, 8), 77 if mode == "L" else (200, 100, 50)).save(tmp_path / f"a{ending}", quality=95)
    array = read_image([tmp_path / f"a{ending}"]).array
    assert array.shape == (len(mode), 1, 8, 16)
    assert np.allclose(array[:, 0, 0, 0], [77] if mode == "L" else [200, 100, 50], atol=3)


@pytest.mark.parametrize("array", [COLOUR, GREY])
def test_transparency_is_dropped(tmp_path, array):
    image = Image.fromarray(array)
    image.putalpha(Image.fromarray(GREY[::-1].copy()))
    image.save(tmp_path / "a.png")
    expected = np.moveaxis(array.reshape(5, 6, -1), -1, 0)
    assert np.array_equal(read_image([tmp_path / "a.png"]).array[:, 0], expected)
    assert count_channels(tmp_path / "a.png") == len(expected)


def test_palette_images_have_their_colours_and_palette_labels_their_indices(tmp_path):
    image = Image.fromarray(STACK[0], "P")
    image.putpalette([9, 8, 7, 255, 0, 0, 0, 255, 0, 0, 0, 255, 100, 100, 100])
    image.save(tmp_path / "a.png")
    colours = np.array([[9, 8, 7], [255, 0, 0], [0, 255, 0], [0, 0, 255], [100, 100, 100]])
    assert np.array_equal(read_image([tmp_path / "a.png"]).array[:, 0], np.moveaxis(colours[STACK[0]], -1, 0))
    assert np.array_equal(read_label(tmp_path / "a.png").array, STACK[:1])


def test_a_grey_palette_is_one_channel(tmp_path):
    image = Image.fromarray(STACK[0], "P")
    image.putpalette([v for k in range(5) for v in (40 * k,) * 3])
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_image([tmp_path / "a.png"]).array[0, 0], 40.0 * STACK[0])
    assert count_channels(tmp_path / "a.png") == 1


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_16_bits_are_kept(tmp_path, ending):
    deep = GREY.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / f"a{ending}")
    assert np.array_equal(read_image([tmp_path / f"a{ending}"]).array[0, 0], deep)
    colours = COLOUR.astype(np.uint16) * 256 + 1
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(tmp_path / f"c{ending}"))
    assert np.array_equal(read_image([tmp_path / f"c{ending}"]).array[:, 0], np.moveaxis(colours, -1, 0))


def test_32_bit_tiff_and_its_nan(tmp_path):
    values = GREY.astype(np.float32) / 3
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert np.array_equal(read_image([tmp_path / "a.tif"]).array[0, 0], values)
    values[2, 3] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(DatasetError, match="a.tif: 1 of 30 values are NaN"):
        read_image([tmp_path / "a.tif"])


def test_one_bit_labels_are_0_and_1(tmp_path):
    Image.fromarray(GREY > 100).save(tmp_path / "a.png")
    assert np.array_equal(read_label(tmp_path / "a.png").array[0], GREY > 100)


def test_one_file_per_channel_and_colour_with_grey(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a_0000.png")
    Image.fromarray(GREY).save(tmp_path / "a_0001.png")
    array = read_image([tmp_path / "a_0000.png", tmp_path / "a_0001.png"]).array
    assert np.array_equal(array, np.concatenate([np.moveaxis(COLOUR, -1, 0), GREY[None]])[:, None])
    Image.fromarray(GREY[1:]).save(tmp_path / "a_0001.png")
    with pytest.raises(DatasetError, match=r"a_0000.png and .*a_0001.png do not lie on the same grid: size \(6, 5, 1\) and \(6, 4, 1\)"):
        read_image([tmp_path / "a_0000.png", tmp_path / "a_0001.png"])


@pytest.mark.parametrize("ending", LOSSLESS)
def test_labels_are_written_and_read(tmp_path, ending):
    Image.fromarray(GREY).save(tmp_path / f"in{ending}")
    geometry = read_image([tmp_path / f"in{ending}"]).geometry
    write_label(tmp_path / "x" / f"a{ending}", STACK[:1], geometry)
    write_label(tmp_path / "y" / f"a{ending}", STACK[:1].astype(np.int64), geometry)
    assert (tmp_path / "x" / f"a{ending}").read_bytes() == (tmp_path / "y" / f"a{ending}").read_bytes()
    assert [p.name for p in (tmp_path / "x").iterdir()] == [f"a{ending}"]
    assert np.array_equal(read_label(tmp_path / "x" / f"a{ending}").array, STACK[:1])
    itk = sitk.ReadImage(str(tmp_path / "x" / f"a{ending}"))
    assert itk.GetSize() == (6, 5) and itk.GetSpacing() == (1.0, 1.0)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_labels_above_255_take_16_bits(tmp_path, ending):
    Image.fromarray(GREY).save(tmp_path / "in.png")
    geometry = read_image([tmp_path / "in.png"]).geometry
    write_label(tmp_path / f"a{ending}", STACK[:1].astype(np.int32) + 300, geometry)
    assert np.array_equal(read_label(tmp_path / f"a{ending}").array, STACK[:1].astype(int) + 300)
    with pytest.raises(DatasetError, match="a .bmp file holds label values up to 255"):
        write_label(tmp_path / "a.bmp", STACK[:1].astype(np.int32) + 300, geometry)


def test_labels_are_not_written_as_jpeg(tmp_path):
    Image.new("L", (6, 5)).save(tmp_path / "in.jpg")
    with pytest.raises(InputError, match="a.jpg: JPEG is lossy"):
        write_label(tmp_path / "a.jpg", STACK[:1], read_image([tmp_path / "in.jpg"]).geometry)


@pytest.mark.parametrize("sidecar", ["a_0000.json", "a.json"])
def test_tiff_stack_with_sidecar(tmp_path, sidecar):
    path = write_stack(tmp_path / "a_0000.tif", STACK)
    (tmp_path / sidecar).write_text('{"spacing": [3, 0.5, 0.25]}')
    image = read_image([path])
    assert np.array_equal(image.array, STACK[None]) and image.spacing == (3.0, 0.5, 0.25)
    write_label(tmp_path / "out" / "a.tif", STACK, image.geometry)
    label = read_label(tmp_path / "out" / "a.tif")
    assert np.array_equal(label.array, STACK) and label.spacing == (3.0, 0.5, 0.25)
    assert json.loads((tmp_path / "out" / "a.json").read_text()) == {"spacing": [3.0, 0.5, 0.25]}


def test_tiff_stack_without_sidecar_has_1_mm_and_a_warning(tmp_path, caplog):
    image = read_image([write_stack(tmp_path / "a_0000.tiff", STACK)])
    assert image.spacing == (1.0, 1.0, 1.0)
    assert "a_0000.tiff has no sidecar a_0000.json" in caplog.text


def test_tiff_of_one_page_with_sidecar_is_a_volume(tmp_path):
    image = read_image([write_stack(tmp_path / "a.tif", STACK[:1], [5, 2, 1])])
    assert image.spacing == (5.0, 2.0, 1.0)


@pytest.mark.parametrize("content", [
    '{"spacing": [1, 2]}', '{"spacing": [1, 0, 1]}', '{"spacing": [1, -2, 1]}', '{"spacing": [1, NaN, 1]}', '{"spacing": [1, true, 1]}',
    '{"spacing": "1"}', "{}", "[]", "{",
])  # fmt: skip
def test_bad_sidecar(tmp_path, content):
    path = write_stack(tmp_path / "a.tif", STACK)
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DatasetError, match=r'a.json.*expected {"spacing": \[z, y, x\]} with three positive numbers'):
        read_image([path])


def test_pages_of_different_size(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.tif", save_all=True, append_images=[Image.fromarray(GREY[1:])])
    with pytest.raises(DatasetError, match=r"a.tif: its pages differ in size: \[\(4, 6\), \(5, 6\)\]"):
        read_image([tmp_path / "a.tif"])


@pytest.mark.parametrize("ending", [".png", ".bmp", ".jpg", ".tif"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95])
def test_truncated(tmp_path, ending, share):
    path = tmp_path / f"a{ending}"
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64)).astype(np.uint8)
    if ending == ".tif":
        write_stack(path, noise)
    else:
        Image.fromarray(noise[0]).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    for read in (lambda: read_image([path]), lambda: read_label(path)):
        with pytest.raises(DatasetError, match=f"a{ending} cannot be read: it is truncated or damaged"):
            read()


def test_something_else_under_the_name(tmp_path):
    for ending in (*LOSSLESS, ".jpg"):
        (tmp_path / f"a{ending}").write_bytes(b"hello " * 100)
        with pytest.raises(DatasetError, match=f"a{ending} cannot be read"):
            read_image([tmp_path / f"a{ending}"])
        with pytest.raises(DatasetError, match=f"none{ending} does not exist"):
            read_image([tmp_path / f"none{ending}"])


def test_a_colour_image_is_no_label(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    with pytest.raises(DatasetError, match="a.png is a colour image .mode RGB.; a label file has one value per pixel"):
        read_label(tmp_path / "a.png")


def test_a_volume_does_not_fit_into_a_png(tmp_path):
    image = read_image([write_stack(tmp_path / "a.tif", STACK)])
    with pytest.raises(DatasetError, match="a .png file holds one slice, not 4"):
        write_label(tmp_path / "a.png", STACK, image.geometry)
