"""Functions on pictures: PIL images, uint8 arrays (H, W[, C]) and tensors (..., H, W)."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import numpy as np

from ...autodiff.handle import Tensor
from ...ir.dtypes import DType, as_dtype, get_default_dtype
from ...ir.errors import DTypeError, ShapeError
from ...tensors.interop import from_numpy
from .._errors import pillow
from . import _array

Array = np.ndarray[Any, Any]


class InterpolationMode(Enum):
    """How a picture is resampled."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


def mode_name(mode: InterpolationMode | str) -> str:
    """The name of a mode: "nearest", "bilinear" or "bicubic"."""
    name = mode.value if isinstance(mode, InterpolationMode) else mode
    if name not in ("nearest", "bilinear", "bicubic"):
        raise ValueError(f"interpolation must be nearest, bilinear or bicubic, got {mode!r}")
    return name


def is_pil(picture: Any) -> bool:
    """Whether it is a PIL image; does not import Pillow."""
    return type(picture).__module__.startswith("PIL.") and hasattr(picture, "getbands")


def pair(value: Any, name: str) -> tuple[int, int]:
    """(height, width) of one int or two."""
    if isinstance(value, numbers.Number):
        return int(value), int(value)  # type: ignore[call-overload]
    if len(value) == 1:
        return int(value[0]), int(value[0])
    if len(value) != 2:
        raise ValueError(f"{name} must be an int or (height, width), got {value!r}")
    return int(value[0]), int(value[1])


def get_dimensions(picture: Any) -> tuple[int, int, int]:
    """Channels, height and width."""
    if is_pil(picture):
        return len(picture.getbands()), picture.height, picture.width
    if isinstance(picture, Tensor):
        if picture.ndim < 2:
            raise ShapeError(
                f"a picture is a tensor (C, H, W) or (..., H, W), got shape {tuple(picture.shape)}",
                op="transforms",
            )
        return (picture.shape[-3] if picture.ndim > 2 else 1), picture.shape[-2], picture.shape[-1]
    array = _check_array(picture)
    return (array.shape[2] if array.ndim == 3 else 1), array.shape[0], array.shape[1]


def get_image_size(picture: Any) -> list[int]:
    """[width, height], as PIL's `size`."""
    _, height, width = get_dimensions(picture)
    return [width, height]


def _check_array(picture: Any) -> Array:
    if not isinstance(picture, np.ndarray):
        raise TypeError(
            f"a picture is a PIL image, a NumPy array (H, W[, C]) or a tensor, got {type(picture).__name__}"
        )
    if picture.ndim not in (2, 3):
        raise ShapeError(f"a picture is an array (H, W) or (H, W, C), got shape {picture.shape}", op="transforms")
    return picture


def on_arrays(picture: Any, fn: Callable[[Array], Array]) -> Any:
    """Apply a function of (..., C, H, W) arrays to a picture of any kind, and give the same kind."""
    if isinstance(picture, Tensor):
        get_dimensions(picture)
        return from_numpy(np.ascontiguousarray(fn(picture.detach().numpy())))
    if is_pil(picture):
        if picture.mode in ("P", "PA"):
            picture = picture.convert("RGB")
        out = _hwc(fn(_chw(np.asarray(picture))))
        return pillow("transforms of PIL images").fromarray(np.ascontiguousarray(out))
    array = _check_array(picture)
    return np.ascontiguousarray(_hwc(fn(_chw(array)), keep=array.ndim == 3))


def _chw(array: Array) -> Array:
    return array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)


def _hwc(array: Array, keep: bool = False) -> Array:
    return array[0] if array.shape[0] == 1 and not keep else np.moveaxis(array, 0, 2)


# --- conversions


def pil_to_tensor(picture: Any) -> Tensor:
    """A tensor (C, H, W) of a PIL image (or array) in its own dtype, not scaled."""
    return from_numpy(np.ascontiguousarray(_chw(_pixels(picture))).copy())


def _pixels(picture: Any) -> Array:
    if not is_pil(picture):
        return _check_array(picture)
    if picture.mode == "1":
        return np.asarray(picture.convert("L")) // 255
    array = np.asarray(picture)
    return array.astype(array.dtype.newbyteorder("="))


def to_tensor(picture: Any) -> Tensor:
    """A float tensor (C, H, W) of a picture; uint8 values are divided by 255.

    >>> import numpy as np
    >>> to_tensor(np.array([[0, 255]], dtype=np.uint8))
    tensor([[[0., 1.]]])
    """
    if isinstance(picture, Tensor):
        raise TypeError("ToTensor takes a PIL image or a NumPy array; this is a tensor already")
    one_bit = is_pil(picture) and picture.mode == "1"
    array = _chw(_pixels(picture))
    if array.dtype != np.uint8 or one_bit:
        if array.dtype == np.bool_ or one_bit:
            array = array.astype(get_default_dtype().numpy)
        return from_numpy(np.ascontiguousarray(array).copy())
    return from_numpy(np.ascontiguousarray(array).astype(get_default_dtype().numpy) / 255)


def to_pil_image(picture: Any, mode: str | None = None) -> Any:
    """A PIL image of a tensor (C, H, W) or (H, W), or an array (H, W[, C]).

    Floats are taken as 0..1, except with `mode="F"`.
    Raises: ShapeError if there are not 1 to 4 channels.
    """
    image = pillow("to_pil_image")
    if isinstance(picture, Tensor):
        array = picture.detach().numpy()
        if array.ndim not in (2, 3):
            raise ShapeError(f"a picture is (C, H, W) or (H, W), got shape {array.shape}", op="to_pil_image")
        array = array if array.ndim == 2 else np.moveaxis(array, 0, 2)
        if array.dtype.kind == "f" and mode != "F":
            array = (array.astype(np.float32) * 255).astype(np.uint8)
    else:
        array = _check_array(picture)
    channels = array.shape[2] if array.ndim == 3 else 1
    if not 1 <= channels <= 4:
        raise ShapeError(f"a picture has 1 to 4 channels, got {channels}", op="to_pil_image")
    array = array[..., 0] if array.ndim == 3 and channels == 1 else array
    if channels == 1 and array.dtype.kind == "f":
        array = array.astype(np.float32)
    out = image.fromarray(np.ascontiguousarray(array))
    return out if mode is None or out.mode == mode else out.convert(mode)


def convert_image_dtype(picture: Tensor, dtype: DType | str | None = None) -> Tensor:
    """The picture in another dtype, scaled from its dtype's range to the other's.

    Floats range over 0..1, integers over 0..their maximum.
    """
    want = get_default_dtype() if dtype is None else as_dtype(dtype)
    array = picture.detach().numpy()
    have = picture.dtype
    if have is want:
        return picture
    if have.is_floating_point:
        if want.is_floating_point:
            return from_numpy(array.astype(want.numpy))
        if want.itemsize == 8 or (want.itemsize == 4 and have.itemsize < 8):
            raise DTypeError(f"{have.name} can't hold all values of {want.name}", op="convert_image_dtype")
        top = np.iinfo(want.numpy).max
        return from_numpy((array.astype(np.float64) * (top + 1 - 1e-3)).astype(want.numpy))
    high = int(np.iinfo(have.numpy).max)
    if want.is_floating_point:
        return from_numpy(array.astype(want.numpy) / np.asarray(high, want.numpy))
    low = int(np.iinfo(want.numpy).max)
    if high > low:
        return from_numpy((array // ((high + 1) // (low + 1))).astype(want.numpy))
    return from_numpy(array.astype(want.numpy) * np.asarray((low + 1) // (high + 1), want.numpy))


def normalize(tensor: Tensor, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> Tensor:
    """`(x - mean) / std`, a mean and a deviation for each channel.

    Shapes: tensor (..., C, H, W) floating; mean and std of length C or 1.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"Normalize takes a tensor, got {type(tensor).__name__}; put ToTensor() before it")
    if not tensor.dtype.is_floating_point:
        raise DTypeError(f"Normalize takes a floating tensor, got {tensor.dtype.name}", op="normalize")
    channels, _, _ = get_dimensions(tensor)
    for name, values in (("mean", mean), ("std", std)):
        if np.size(values) not in (1, channels):
            raise ShapeError(
                f"{name} has {np.size(values)} values for the {channels} channels of shape {tuple(tensor.shape)}",
                op="normalize",
                hint="grey pictures need one value each, e.g. Normalize((0.5,), (0.5,))",
            )
    kind = tensor.dtype.numpy
    m, s = (np.asarray(v, dtype=kind).reshape(-1, 1, 1) for v in (mean, std))
    if not s.all():
        raise ValueError(f"std must not be zero, got {std}")
    array = tensor.detach().numpy()
    if inplace:
        np.divide(array - m, s, out=array)
        return tensor
    return from_numpy((array - m) / s)


# --- geometry


def output_size(height: int, width: int, size: Any, max_size: int | None) -> tuple[int, int]:
    """Height and width that `resize` makes: an int is the smaller edge, the ratio is kept."""
    if not isinstance(size, int) and len(size) == 2:
        return pair(size, "size")
    edge = size if isinstance(size, int) else int(size[0])
    short, long = min(height, width), max(height, width)
    new_short, new_long = edge, int(edge * long / short)
    if max_size is not None:
        if max_size <= edge:
            raise ValueError(f"max_size={max_size} must be larger than size={edge}")
        if new_long > max_size:
            new_short, new_long = int(max_size * new_short / new_long), max_size
    return (new_short, new_long) if height <= width else (new_long, new_short)


def resize(
    picture: Any,
    size: int | Sequence[int],
    interpolation: InterpolationMode | str = InterpolationMode.BILINEAR,
    max_size: int | None = None,
    antialias: bool = True,
) -> Any:
    """The picture resampled to (height, width), or to a smaller edge of `size`."""
    _, height, width = get_dimensions(picture)
    new = output_size(height, width, size, max_size)
    mode = mode_name(interpolation)
    if is_pil(picture):
        filters = pillow("resize").Resampling
        return picture.resize((new[1], new[0]), getattr(filters, mode.upper()))
    return on_arrays(picture, lambda x: _array.resize(x, new, mode, antialias))


def crop(picture: Any, top: int, left: int, height: int, width: int) -> Any:
    """A part of the picture; what lies outside of it is zero."""
    if is_pil(picture):
        return picture.crop((left, top, left + width, top + height))
    return on_arrays(picture, lambda x: _array.crop(x, top, left, height, width))


def center_crop(picture: Any, output_size: int | Sequence[int]) -> Any:
    """The middle of the picture; a smaller picture gets a border of zeros."""
    h, w = pair(output_size, "output_size")
    _, height, width = get_dimensions(picture)
    if w > width or h > height:
        across, down = max(w - width, 0), max(h - height, 0)
        picture = pad(picture, [across // 2, down // 2, (across + 1) // 2, (down + 1) // 2])
        _, height, width = get_dimensions(picture)
    return crop(picture, round((height - h) / 2.0), round((width - w) / 2.0), h, w)


def resized_crop(
    picture: Any,
    top: int,
    left: int,
    height: int,
    width: int,
    size: int | Sequence[int],
    interpolation: InterpolationMode | str = InterpolationMode.BILINEAR,
    antialias: bool = True,
) -> Any:
    """A part of the picture, resampled to `size`."""
    return resize(crop(picture, top, left, height, width), size, interpolation, antialias=antialias)


def hflip(picture: Any) -> Any:
    """The picture mirrored left to right."""
    return on_arrays(picture, lambda x: x[..., ::-1])


def vflip(picture: Any) -> Any:
    """The picture mirrored top to bottom."""
    return on_arrays(picture, lambda x: x[..., ::-1, :])


def pad(picture: Any, padding: int | Sequence[int], fill: Any = 0, padding_mode: str = "constant") -> Any:
    """Add a border: of one width, (left and right, top and bottom), or (left, top, right, bottom).

    `padding_mode` is "constant" (with `fill`), "edge", "reflect" or "symmetric".
    """
    if padding_mode not in ("constant", "edge", "reflect", "symmetric"):
        raise ValueError(f"padding_mode must be constant, edge, reflect or symmetric, got {padding_mode!r}")
    widths = [padding] if isinstance(padding, int) else list(padding)
    if len(widths) not in (1, 2, 4):
        raise ValueError(f"padding must have 1, 2 or 4 values, got {padding!r}")
    widths = widths * 4 if len(widths) == 1 else widths * 2 if len(widths) == 2 else widths
    return on_arrays(picture, lambda x: _array.pad(x, widths, fill, padding_mode))


def affine(
    picture: Any,
    angle: float,
    translate: Sequence[float],
    scale: float,
    shear: float | Sequence[float],
    interpolation: InterpolationMode | str = InterpolationMode.NEAREST,
    fill: Any = 0,
    center: Sequence[float] | None = None,
) -> Any:
    """Rotate clockwise by `angle` degrees, translate by pixels, scale and shear (degrees).

    Pixels from outside of the picture are `fill`; `center` is (x, y), the middle by default.
    """
    if scale <= 0:
        raise ValueError(f"scale must be positive, got {scale}")
    shears = [shear, 0.0] if isinstance(shear, numbers.Number) else list(shear)  # type: ignore[arg-type]
    shears = [*shears, 0.0] if len(shears) == 1 else shears
    _, height, width = get_dimensions(picture)
    middle = (width * 0.5, height * 0.5) if center is None else (float(center[0]), float(center[1]))
    matrix = _array.affine_matrix(middle, angle, translate, scale, shears)  # type: ignore[arg-type]
    return _sampled(picture, matrix, (height, width), mode_name(interpolation), fill)


def rotate(
    picture: Any,
    angle: float,
    interpolation: InterpolationMode | str = InterpolationMode.NEAREST,
    expand: bool = False,
    center: Sequence[float] | None = None,
    fill: Any = 0,
) -> Any:
    """Rotate counter-clockwise by `angle` degrees; `expand` makes the picture large enough."""
    _, height, width = get_dimensions(picture)
    middle = (width * 0.5, height * 0.5) if center is None else (float(center[0]), float(center[1]))
    size, shift = (height, width), (0.0, 0.0)
    if expand:
        size, shift = _expanded(height, width, angle, middle)
    matrix = _array.affine_matrix(middle, -angle, shift, 1.0, (0.0, 0.0))
    return _sampled(picture, matrix, size, mode_name(interpolation), fill)


def _expanded(
    height: int, width: int, angle: float, center: tuple[float, float]
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Size of the box around the rotated picture, and the shift that brings it there."""
    a, b, c, d, e, f = _array.affine_matrix(center, angle, (0.0, 0.0), 1.0, (0.0, 0.0))
    corners = [(0, 0), (width, 0), (0, height), (width, height)]
    xs = [round(a * x + b * y + c, 9) for x, y in corners]
    ys = [round(d * x + e * y + f, 9) for x, y in corners]
    w = int(np.ceil(max(xs)) - np.floor(min(xs)))
    h = int(np.ceil(max(ys)) - np.floor(min(ys)))
    return (h, w), ((w - (max(xs) + min(xs))) / 2, (h - (max(ys) + min(ys))) / 2)


def _sampled(picture: Any, matrix: list[float], size: tuple[int, int], mode: str, fill: Any) -> Any:
    if mode == "bicubic":
        raise ValueError("rotations are nearest or bilinear, got bicubic")
    return on_arrays(picture, lambda x: _array.affine(x, matrix, size, mode, fill))


# --- colours


def rgb_to_grayscale(picture: Any, num_output_channels: int = 1) -> Any:
    """Luma of an RGB picture, in one channel or repeated in three; grey pictures stay as they are."""
    if num_output_channels not in (1, 3):
        raise ValueError(f"num_output_channels must be 1 or 3, got {num_output_channels}")

    def fn(x: Array) -> Array:
        y = x if _channels(x) == 1 else _array.like(_array.gray(x), x.dtype)
        return np.repeat(y, num_output_channels, axis=-3)

    return on_arrays(picture, fn)


to_grayscale = rgb_to_grayscale


def _channels(x: Array) -> int:
    channels = x.shape[-3] if x.ndim > 2 else 0
    if channels not in (1, 3):
        raise ShapeError(f"colours need 1 or 3 channels (C, H, W), got shape {x.shape}", op="transforms")
    return channels


def _check_factor(name: str, factor: float) -> None:
    if factor < 0:
        raise ValueError(f"{name} must not be negative, got {factor}")


def adjust_brightness(picture: Any, brightness_factor: float) -> Any:
    """0 gives black, 1 the same, 2 twice as bright."""
    _check_factor("brightness_factor", brightness_factor)
    return on_arrays(picture, lambda x: _array.blend(x, 0.0, brightness_factor))


def adjust_contrast(picture: Any, contrast_factor: float) -> Any:
    """0 gives the mean grey, 1 the same, 2 twice the contrast."""
    _check_factor("contrast_factor", contrast_factor)

    def fn(x: Array) -> Array:
        y = x.astype(np.float64) if _channels(x) == 1 else _array.gray(x)
        y = y if x.dtype.kind == "f" else np.rint(y)
        mean = y.mean((-3, -2, -1), keepdims=True)
        return _array.blend(x, mean, contrast_factor)

    return on_arrays(picture, fn)


def adjust_saturation(picture: Any, saturation_factor: float) -> Any:
    """0 gives grey, 1 the same, 2 twice the saturation."""
    _check_factor("saturation_factor", saturation_factor)

    def fn(x: Array) -> Array:
        if _channels(x) == 1:
            return x
        y = _array.gray(x)
        return _array.blend(x, y if x.dtype.kind == "f" else np.rint(y), saturation_factor)

    return on_arrays(picture, fn)


def adjust_hue(picture: Any, hue_factor: float) -> Any:
    """Turn the hue by -0.5 to 0.5 of a circle."""
    if not -0.5 <= hue_factor <= 0.5:
        raise ValueError(f"hue_factor must be between -0.5 and 0.5, got {hue_factor}")
    return on_arrays(picture, lambda x: x if _channels(x) == 1 else _array.shift_hue(x, hue_factor))


def erase(picture: Tensor, i: int, j: int, h: int, w: int, v: Any, inplace: bool = False) -> Tensor:
    """A tensor (..., C, H, W) with the rectangle at row `i`, column `j` overwritten by `v`."""
    if not isinstance(picture, Tensor):
        raise TypeError(f"erase takes a tensor, got {type(picture).__name__}; put ToTensor() before it")
    array = picture.detach().numpy()
    out = array if inplace else array.copy()
    out[..., i : i + h, j : j + w] = v.detach().numpy() if isinstance(v, Tensor) else v
    return picture if inplace else from_numpy(out)
