"""Natural images (PNG, BMP, JPEG, TIFF) and TIFF stacks: pixels as they are in the file, by Pillow."""

from __future__ import annotations

import json
import math
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image as pillow
from PIL import ImageSequence, UnidentifiedImageError

from ldseg_auto.data.endings import TIFF, ending_of
from ldseg_auto.errors import DatasetError

DECODING = (OSError, EOFError, SyntaxError, ValueError, IndexError, KeyError, TypeError, struct.error)  # what Pillow raises on bad data
GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F")


def count_channels(path: Path) -> int:
    """Channels of an image: 1 for grey, 3 for colour; transparency does not count.

    Raises:
        DatasetError: the file cannot be read.
    """
    with _Opened(path) as image:
        return _channels(image)


def read_pixels(path: Path) -> np.ndarray:
    """Intensities `(c, z, y, x)` of an image (z = 1) or of a stack of pages; c is 1 (grey) or 3 (RGB).

    Transparency is dropped, a palette is replaced by its colours (one channel where they are all grey).

    Raises:
        DatasetError: the file is truncated or damaged, or its pages differ in size.
    """
    with _Opened(path) as image:
        if _deep_colour(image):
            return _read_deep(path)
        channels = _channels(image)
        pages = [_page(page, channels) for page in ImageSequence.Iterator(image)]
    if len({p.shape for p in pages}) != 1:
        sizes = sorted({p.shape[1:] for p in pages})
        raise DatasetError(f"image {path}: its pages differ in size: {sizes} (y, x); a volume needs equal pages.")
    return np.stack(pages, axis=1)


def read_values(path: Path) -> np.ndarray:
    """Label values `(z, y, x)`; of a palette image the palette's indices.

    Raises:
        DatasetError: the file cannot be read, or is a colour image.
    """
    with _Opened(path) as image:
        if image.mode not in (*GREY, "P"):
            rule = "a label file has one value per pixel. Convert it to 8-bit grey"
            raise DatasetError(f"label {path} is a colour image (mode {image.mode}); {rule}.")
        return np.stack([np.asarray(page.getchannel(0) if page.mode == "LA" else page) for page in ImageSequence.Iterator(image)])


def write_values(path: Path, values: np.ndarray) -> None:
    """Writes label values `(z, y, x)`, uint8 or uint16, as PNG, BMP (8 bits only) or TIFF (compressed, a page per z).

    Raises:
        DatasetError: the format cannot hold them.
    """
    ending = ending_of(path).lower()
    if ending not in TIFF and len(values) != 1:
        raise DatasetError(f"{path}: a {ending} file holds one slice, not {len(values)}. Use a volume format.")
    if ending == ".bmp" and values.dtype != np.uint8:
        raise DatasetError(f"{path}: a .bmp file holds label values up to 255, here the highest is {values.max()}. Use .png.")
    pages = [pillow.fromarray(np.ascontiguousarray(page)) for page in values]
    if ending in TIFF:
        pages[0].save(path, format="TIFF", save_all=True, append_images=pages[1:], compression="tiff_adobe_deflate")
    else:
        pages[0].save(path, format={".png": "PNG", ".bmp": "BMP"}[ending])


def sidecar_spacing(path: Path) -> tuple[float, float, float] | None:
    """Spacing (z, y, x) in mm from the JSON file beside a TIFF: for CASE_0000.tif CASE_0000.json, else CASE.json. None without.

    Raises:
        DatasetError: the file is there but does not hold three positive numbers.
    """
    stem = path.name[: -len(ending_of(path))]
    for name in dict.fromkeys((stem, stem[:-5] if stem[-5:-4] == "_" and stem[-4:].isdigit() else stem)):
        sidecar = path.with_name(name + ".json")
        if name and sidecar.is_file():
            return _read_sidecar(sidecar)
    return None


def _read_sidecar(path: Path) -> tuple[float, float, float]:
    rule = 'expected {"spacing": [z, y, x]} with three positive numbers in mm'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as cause:
        raise DatasetError(f"{path} is not valid JSON ({cause}); {rule}.") from None
    spacing = content.get("spacing") if isinstance(content, dict) else None
    numbers = isinstance(spacing, list) and all(isinstance(s, (int, float)) and not isinstance(s, bool) for s in spacing)
    if not isinstance(spacing, list) or not numbers or len(spacing) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing):
        raise DatasetError(f"{path}: spacing = {spacing!r}; {rule}.")
    return float(spacing[0]), float(spacing[1]), float(spacing[2])


class _Opened:  # a context manager that turns Pillow's errors into ours
    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> pillow.Image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", pillow.DecompressionBombWarning)
                self.image = pillow.open(self.path)
        except FileNotFoundError:
            raise DatasetError(f"{self.path} does not exist.") from None
        except (UnidentifiedImageError, pillow.DecompressionBombError, OSError, SyntaxError, ValueError) as cause:
            raise _unreadable(self.path, cause) from cause
        return self.image

    def __exit__(self, kind: type[BaseException] | None, cause: BaseException | None, trace: object) -> None:
        self.image.close()
        if isinstance(cause, DECODING) and not isinstance(cause, DatasetError):
            raise _unreadable(self.path, cause) from cause


def _unreadable(path: Path, cause: BaseException) -> DatasetError:
    reason = (str(cause) or type(cause).__name__).splitlines()[0]
    return DatasetError(f"{path} cannot be read: it is truncated or damaged ({reason}). Copy it again.")


def _channels(image: pillow.Image) -> int:
    if image.mode in GREY:
        return 1
    if image.mode == "P":
        return 1 if _grey_palette(image) else 3
    return 3


def _grey_palette(image: pillow.Image) -> bool:
    palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    return bool(np.all(palette == palette[:, :1]))


def _deep_colour(image: pillow.Image) -> bool:
    """Whether Pillow would cut colours to 8 bits: PNG (bit depth in its header) and TIFF (tag BitsPerSample)."""
    if image.mode in GREY:
        return False
    if image.format == "PNG":
        with open(str(image.filename), "rb") as stream:  # type: ignore[attr-defined]
            return stream.read(25)[24] > 8
    return image.format == "TIFF" and max(image.tag_v2.get(258, (8,))) > 8  # type: ignore[attr-defined]


def _read_deep(path: Path) -> np.ndarray:
    """Colours of more than 8 bits, which Pillow would cut, as (3, z, y, x)."""
    import SimpleITK as sitk  # only here: the other natural images need Pillow alone

    try:
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[..., :3]
    except RuntimeError as cause:
        raise _unreadable(path, cause) from cause
    array = np.moveaxis(array, -1, 0)
    return array if array.ndim == 4 else array[:, None]


def _page(page: pillow.Image, channels: int) -> np.ndarray:
    """One page as (c, y, x)."""
    if channels == 1 and page.mode in ("P", "LA"):
        page = page.convert("L")
    elif channels == 3 and page.mode != "RGB":
        page = page.convert("RGB")
    array = np.asarray(page)
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
