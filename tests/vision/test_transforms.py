"""Transforms on PIL images, arrays and tensors, against Pillow, PyTorch and hand-made results."""

import colorsys

import numpy as np
import pytest
import torch

import twofold as tw
from twofold.data import sample_rng
from twofold.ir.errors import DTypeError, ShapeError
from twofold.vision import transforms as T
from twofold.vision.transforms import functional as F

Image = pytest.importorskip("PIL.Image")
ImageEnhance = pytest.importorskip("PIL.ImageEnhance")

rng = np.random.default_rng(5)
RGB = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
GRAY = rng.integers(0, 256, (9, 12), dtype=np.uint8)
SMOOTH = np.stack([np.outer(np.linspace(0, 255, 24), np.linspace(0.2, 1, 32))] * 3, -1).astype(np.uint8)


def forms(array):
    """The picture as PIL image, array and tensor."""
    chw = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
    return Image.fromarray(array), array, tw.tensor(np.ascontiguousarray(chw))


def as_array(picture):
    """Any form as an array (H, W[, C])."""
    if isinstance(picture, tw.Tensor):
        array = np.moveaxis(picture.numpy(), 0, 2)
    else:
        array = np.asarray(picture)
    return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array


def all_forms(fn, array):
    """The result, the same for all forms; kinds and dtypes are kept."""
    results = []
    for picture in forms(array):
        out = fn(picture)
        assert F.is_pil(out) == F.is_pil(picture) and isinstance(out, tw.Tensor) == isinstance(picture, tw.Tensor)
        results.append(as_array(out))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[1], results[2])
    assert results[0].dtype == np.uint8
    return results[0]


PICTURES = pytest.mark.parametrize("array", [RGB, GRAY], ids=["rgb", "gray"])


# --- conversions


def test_to_tensor():
    x = T.ToTensor()(Image.fromarray(RGB))
    assert x.shape == (3, 9, 12) and x.dtype is tw.float32
    np.testing.assert_array_equal(x.numpy(), torch.from_numpy(RGB).permute(2, 0, 1).float().div(255).numpy())
    assert T.ToTensor()(GRAY).shape == (1, 9, 12)
    assert T.ToTensor()(RGB.astype(np.float64)).dtype is tw.float64  # not scaled, as in PyTorch
    assert T.ToTensor()(np.array([[True, False]])).tolist() == [[[1.0, 0.0]]]
    assert T.ToTensor()(Image.fromarray(GRAY > 99)).tolist() == [(GRAY > 99).astype(float).tolist()]
    deep = Image.fromarray(GRAY.astype(np.int32) * 1000)
    assert T.ToTensor()(deep).dtype is tw.int32
    with pytest.raises(TypeError, match="tensor already"):
        T.ToTensor()(tw.zeros(1, 2, 2))
    with pytest.raises(TypeError, match="list"):
        T.ToTensor()([1])
    with pytest.raises(ShapeError):
        T.ToTensor()(np.zeros(3))


def test_to_tensor_does_not_share_memory():
    array = np.zeros((2, 2), np.float32)
    x = T.ToTensor()(array)
    array[...] = 1
    assert x.sum().item() == 0


def test_pil_to_tensor():
    x = T.PILToTensor()(Image.fromarray(RGB))
    assert x.dtype is tw.uint8
    np.testing.assert_array_equal(x.numpy(), RGB.transpose(2, 0, 1))


@PICTURES
def test_to_pil_image_round_trip(array):
    for made in (T.ToTensor()(array), T.PILToTensor()(array), array):
        np.testing.assert_array_equal(np.asarray(T.ToPILImage()(made)), array)
    assert T.ToPILImage()(T.PILToTensor()(GRAY)).mode == "L"
    assert T.ToPILImage("RGB")(GRAY).mode == "RGB"
    with pytest.raises(ShapeError, match="1 to 4 channels, got 5"):
        T.ToPILImage()(tw.zeros(5, 2, 2))


@pytest.mark.parametrize(
    ("have", "want", "values", "expected"),
    [
        ("uint8", "float32", [0, 51, 255], [0.0, 0.2, 1.0]),
        ("float32", "uint8", [0.0, 0.2, 1.0], [0, 51, 255]),
        ("uint8", "int16", [0, 1, 255], [0, 128, 255 * 128]),
        ("int16", "uint8", [0, 128, 32767], [0, 1, 255]),
        ("float32", "float64", [0.5], [0.5]),
        ("uint8", "uint8", [7], [7]),
    ],
)
def test_convert_image_dtype(have, want, values, expected):
    x = tw.tensor(values, dtype=getattr(tw, have)).reshape(1, 1, -1)
    out = T.ConvertImageDtype(getattr(tw, want))(x)
    assert out.dtype is getattr(tw, want)
    np.testing.assert_allclose(out.numpy().ravel(), expected, rtol=1e-6)


def test_convert_image_dtype_refuses_lossy_integers():
    with pytest.raises(DTypeError, match="int32"):
        F.convert_image_dtype(tw.zeros(1, 1, 1), tw.int32)


def test_normalize():
    x = T.ToTensor()(RGB)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    out = T.Normalize(mean, std)(x)
    want = (x.numpy() - np.float32(mean)[:, None, None]) / np.float32(std)[:, None, None]
    np.testing.assert_allclose(out.numpy(), want, rtol=1e-6)
    batch = F.normalize(tw.stack([x, x]), mean, std)
    np.testing.assert_array_equal(batch[1].numpy(), out.numpy())
    same = F.normalize(x, mean, std, inplace=True)
    assert same is x
    np.testing.assert_array_equal(x.numpy(), out.numpy())
    with pytest.raises(ShapeError, match="grey pictures"):
        T.Normalize(mean, std)(tw.zeros(1, 2, 2))
    with pytest.raises(TypeError, match="ToTensor"):
        T.Normalize([0], [1])(GRAY)
    with pytest.raises(DTypeError):
        T.Normalize([0], [1])(tw.zeros(1, 2, 2, dtype=tw.uint8))
    with pytest.raises(ValueError, match="zero"):
        T.Normalize([0], [0])(tw.zeros(1, 2, 2))


# --- resizing


@pytest.mark.parametrize("size", [(5, 7), (18, 31), (9, 4), (3, 20)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
def test_resize_equals_pytorch(size, mode, antialias):
    x = T.ToTensor()(RGB)
    want = torch.nn.functional.interpolate(
        torch.from_numpy(x.numpy())[None], size, mode=mode, antialias=antialias, align_corners=False
    )[0]
    np.testing.assert_allclose(F.resize(x, size, mode, antialias=antialias).numpy(), want.numpy(), atol=2e-5)


@pytest.mark.parametrize("size", [(5, 7), (18, 31)])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@PICTURES
def test_resize_of_tensors_equals_pillow(size, mode, array):
    picture, bare, tensor = forms(array)
    want = np.asarray(F.resize(picture, size, mode)).astype(int)
    for form in (bare, tensor):
        got = as_array(F.resize(form, size, mode))
        assert got.shape == want.shape and got.dtype == np.uint8
        difference = np.abs(got.astype(int) - want)
        if mode == "nearest":  # Pillow adds up a float, and may fall on the other side of a tie
            assert (difference > 0).mean() < 0.05
        else:  # Pillow rounds and clips between rows and columns, which noise shows with bicubic
            assert difference.max() <= (2 if mode == "bilinear" else 20)
            assert difference.mean() < 0.6


def test_resize_by_the_smaller_edge():
    for picture in forms(RGB):
        assert F.get_dimensions(T.Resize(6)(picture)) == (3, 6, 8)
        assert F.get_dimensions(T.Resize([6])(picture)) == (3, 6, 8)
        assert F.get_dimensions(T.Resize(6, max_size=7)(picture)) == (3, 5, 7)
        assert F.get_dimensions(T.Resize((6, 6))(picture)) == (3, 6, 6)
        assert F.get_image_size(picture) == [12, 9]
    assert F.get_dimensions(T.Resize(6)(RGB.transpose(1, 0, 2))) == (3, 8, 6)
    with pytest.raises(ValueError, match="interpolation"):
        T.Resize(3, interpolation="lanczos")
    with pytest.raises(ValueError, match="max_size"):
        T.Resize(6, max_size=6)(RGB)
    assert T.Resize(6, T.InterpolationMode.NEAREST)(RGB).shape == (6, 8, 3)


def test_leading_dimensions_are_kept():
    x = tw.rand(2, 4, 3, 9, 12)
    assert F.resize(x, (4, 5)).shape == (2, 4, 3, 4, 5)
    assert F.hflip(x).shape == x.shape
    assert F.adjust_contrast(x, 0.5).shape == x.shape
    assert F.rgb_to_grayscale(x).shape == (2, 4, 1, 9, 12)


# --- cropping, flipping, padding


@PICTURES
def test_flips(array):
    np.testing.assert_array_equal(all_forms(F.hflip, array), array[:, ::-1])
    np.testing.assert_array_equal(all_forms(F.vflip, array), array[::-1])


@PICTURES
def test_crop_also_beyond_the_edge(array):
    np.testing.assert_array_equal(all_forms(lambda p: F.crop(p, 2, 3, 4, 5), array), array[2:6, 3:8])
    out = all_forms(lambda p: F.crop(p, -1, 10, 4, 5), array)
    np.testing.assert_array_equal(out[1:, :2], array[:3, 10:])
    assert out[0].max() == 0 and out[:, 2:].max() == 0


@PICTURES
def test_center_crop(array):
    np.testing.assert_array_equal(all_forms(T.CenterCrop(4), array), array[2:6, 4:8])
    np.testing.assert_array_equal(all_forms(T.CenterCrop((9, 12)), array), array)
    large = all_forms(T.CenterCrop((11, 16)), array)
    np.testing.assert_array_equal(large[1:10, 2:14], array)
    assert large.sum() == array.sum()


@PICTURES
@pytest.mark.parametrize("padding", [2, (1, 3), (1, 2, 3, 4)])
@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric"])
def test_pad(array, padding, mode):
    left, top, right, bottom = {int: lambda p: (p,) * 4, tuple: lambda p: p if len(p) == 4 else p * 2}[
        type(padding)
    ](padding)
    widths = [(top, bottom), (left, right)] + [(0, 0)] * (array.ndim - 2)
    options = {"constant_values": 7} if mode == "constant" else {}
    got = all_forms(lambda p: F.pad(p, padding, 7, mode), array)
    np.testing.assert_array_equal(got, np.pad(array, widths, mode=mode, **options))


def test_pad_with_a_colour():
    out = all_forms(T.Pad(1, fill=(1, 2, 3)), RGB)
    assert out[0, 0].tolist() == [1, 2, 3]
    for bad in ((1, 2, 3), ()):
        with pytest.raises(ValueError, match="padding"):
            F.pad(RGB, bad)
    with pytest.raises(ValueError, match="padding_mode"):
        F.pad(RGB, 1, padding_mode="wrap")


def test_random_crop():
    tw.manual_seed(0)
    corners = set()
    coordinates = np.arange(108, dtype=np.uint8).reshape(9, 12)
    for _ in range(300):
        out = T.RandomCrop((7, 10))(coordinates)
        assert out.shape == (7, 10)
        corners.add((int(out[0, 0]) // 12, int(out[0, 0]) % 12))
    assert corners == {(i, j) for i in range(3) for j in range(3)}
    assert T.RandomCrop(12, padding=2)(RGB).shape == (12, 12, 3)
    assert T.RandomCrop(20, pad_if_needed=True)(RGB).shape == (20, 20, 3)
    with pytest.raises(ValueError, match="pad_if_needed"):
        T.RandomCrop(20)(RGB)


@pytest.mark.parametrize("cls", [T.RandomHorizontalFlip, T.RandomVerticalFlip])
def test_random_flips(cls):
    tw.manual_seed(1)
    flipped = sum((cls(0.25)(GRAY) != GRAY).any() for _ in range(1000))
    assert abs(flipped - 250) < 50
    assert (cls(0.0)(GRAY) == GRAY).all() and (cls(1.0)(GRAY) != GRAY).any()


def test_random_resized_crop():
    tw.manual_seed(2)
    for picture in forms(RGB):
        assert F.get_dimensions(T.RandomResizedCrop((5, 6))(picture)) == (3, 5, 6)
    areas, ratios = [], []
    big = np.zeros((100, 120), np.uint8)
    for _ in range(200):
        top, left, h, w = T.RandomResizedCrop.get_params(big, (0.2, 0.5), (0.5, 2.0))
        assert 0 <= top <= 100 - h and 0 <= left <= 120 - w
        areas.append(h * w / big.size)
        ratios.append(w / h)
    assert 0.19 < min(areas) < 0.25 < 0.45 < max(areas) < 0.51
    assert 0.45 < min(ratios) < 0.6 and 1.7 < max(ratios) < 2.1
    assert T.RandomResizedCrop.get_params(np.zeros((2, 100), np.uint8), (1.0, 1.0), (0.9, 1.1)) == (0, 49, 2, 2)
    with pytest.raises(ValueError, match="low, high"):
        T.RandomResizedCrop(3, scale=(1.0, 0.5))


# --- rotating


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_right_angles_are_exact(angle):
    square = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)
    got = all_forms(lambda p: F.rotate(p, angle), square)
    np.testing.assert_array_equal(got, np.rot90(square, angle // 90))


@pytest.mark.parametrize("angle", [90, 270, 30, -45])
def test_rotate_and_expand_equals_pillow(angle):
    picture = Image.fromarray(SMOOTH)
    want = np.asarray(picture.rotate(angle, Image.Resampling.NEAREST, expand=True))
    got = all_forms(lambda p: F.rotate(p, angle, expand=True), SMOOTH)
    assert abs(got.shape[0] - want.shape[0]) <= 1 and abs(got.shape[1] - want.shape[1]) <= 1
    if angle % 90 == 0:
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("angle", [10, -33.3, 120])
def test_rotate_is_near_pillow(angle, mode):
    picture = Image.fromarray(SMOOTH)
    want = np.asarray(picture.rotate(angle, getattr(Image.Resampling, mode.upper()))).astype(int)
    got = all_forms(lambda p: F.rotate(p, angle, mode), SMOOTH).astype(int)
    close = np.abs(got - want) <= 3
    assert close.mean() > 0.97  # pixels on the border of the picture may fall on either side


def test_affine_moves_scales_and_shears():
    spot = np.zeros((11, 11), np.uint8)
    spot[5, 5] = 200
    spot[5, 7] = 100

    def places(picture):
        return {(int(i), int(j)): int(picture[i, j]) for i, j in np.argwhere(picture)}

    def moved(**options):
        options = {"angle": 0, "translate": (0, 0), "scale": 1.0, "shear": 0} | options
        return places(all_forms(lambda p: F.affine(p, **options), spot))

    assert moved(translate=(2, -3)) == {(2, 7): 200, (2, 9): 100}
    assert moved(angle=90) == {(5, 5): 200, (7, 5): 100}  # clockwise
    assert moved(scale=0.5) in ({(5, 5): 200, (5, 6): 100}, {(5, 5): 200})
    assert set(moved(shear=(0, 45))) == {(5, 5), (7, 7)} or set(moved(shear=(0, 45))) == {(5, 5), (3, 7)}
    assert moved(shear=45) == {(5, 5): 200, (5, 7): 100}  # a shear along x leaves the middle row
    assert moved(translate=(50, 0)) == {}
    filled = F.affine(spot, 0, (3, 0), 1.0, 0, fill=9)
    assert (filled[:, :3] == 9).all() and (filled[:, 3:] != 9).all()
    with pytest.raises(ValueError, match="scale"):
        F.affine(spot, 0, (0, 0), 0.0, 0)


def test_affine_without_change_is_exact():
    for mode in ("nearest", "bilinear"):
        np.testing.assert_array_equal(F.affine(RGB, 0, (0, 0), 1.0, 0, mode), RGB)


def test_random_rotation_and_affine():
    tw.manual_seed(3)
    for picture in forms(RGB):
        assert F.get_dimensions(T.RandomRotation(20)(picture)) == (3, 9, 12)
        transform = T.RandomAffine(15, translate=(0.1, 0.2), scale=(0.8, 1.2), shear=(-5, 5, -3, 3))
        assert F.get_dimensions(transform(picture)) == (3, 9, 12)
    assert T.RandomRotation(20).degrees == (-20.0, 20.0)
    np.testing.assert_array_equal(T.RandomRotation((90, 90))(RGB[:, :9]), np.rot90(RGB[:, :9]))
    np.testing.assert_array_equal(T.RandomAffine(0)(RGB), RGB)
    for bad in (lambda: T.RandomRotation(-1), lambda: T.RandomAffine(0, translate=(2, 0))):
        with pytest.raises(ValueError):
            bad()
    with pytest.raises(ValueError):
        T.RandomAffine(0, scale=(0.0, 1.0))


# --- colours


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
@pytest.mark.parametrize(
    ("fn", "enhance"),
    [
        (F.adjust_brightness, ImageEnhance.Brightness),
        (F.adjust_contrast, ImageEnhance.Contrast),
        (F.adjust_saturation, ImageEnhance.Color),
    ],
)
def test_colours_equal_pillow(fn, enhance, factor):
    want = np.asarray(enhance(Image.fromarray(RGB)).enhance(factor)).astype(int)
    got = all_forms(lambda p: fn(p, factor), RGB).astype(int)
    assert np.abs(got - want).max() <= 2


def test_hue_turns_the_circle():
    for shift in (-0.5, -0.2, 0.0, 0.3):
        got = all_forms(lambda p, s=shift: F.adjust_hue(p, s), RGB) / 255
        want = np.empty_like(got)
        for i, j in np.ndindex(RGB.shape[:2]):
            h, s, v = colorsys.rgb_to_hsv(*(RGB[i, j] / 255))
            want[i, j] = colorsys.hsv_to_rgb((h + shift) % 1, s, v)
        np.testing.assert_allclose(got, want, atol=0.51 / 255)
    x = tw.rand(3, 4, 4)
    np.testing.assert_allclose(F.adjust_hue(x, 0.0).numpy(), x.numpy(), atol=1e-6)
    np.testing.assert_array_equal(F.adjust_hue(GRAY, 0.3), GRAY)
    with pytest.raises(ValueError, match="hue_factor"):
        F.adjust_hue(RGB, 0.6)


def test_grayscale():
    want = np.asarray(Image.fromarray(RGB).convert("L")).astype(int)
    got = all_forms(T.Grayscale(), RGB).astype(int)
    assert np.abs(got - want).max() <= 1
    three = all_forms(T.Grayscale(3), RGB)
    assert (three[..., 0] == three[..., 2]).all()
    np.testing.assert_array_equal(all_forms(T.Grayscale(), GRAY), GRAY)
    assert T.RandomGrayscale(1.0)(RGB).shape == RGB.shape
    with pytest.raises(ValueError):
        F.rgb_to_grayscale(RGB, 2)
    with pytest.raises(ShapeError, match="1 or 3 channels"):
        F.rgb_to_grayscale(tw.zeros(2, 4, 4))


def test_color_jitter():
    tw.manual_seed(4)
    jitter = T.ColorJitter(0.4, 0.4, 0.4, 0.1)
    assert jitter.brightness == (0.6, 1.4) and jitter.hue == (-0.1, 0.1)
    for picture in forms(RGB):
        out = jitter(picture)
        assert F.get_dimensions(out) == (3, 9, 12)
        assert (as_array(out) != RGB).any()
    np.testing.assert_array_equal(T.ColorJitter()(RGB), RGB)
    x = T.ColorJitter(brightness=(2.0, 2.0))(tw.full((1, 2, 2), 0.25))
    np.testing.assert_allclose(x.numpy(), 0.5)
    for bad in ({"hue": 0.7}, {"brightness": -1}, {"contrast": (2, 1)}):
        with pytest.raises(ValueError):
            T.ColorJitter(**bad)


# --- the rest


def test_random_erasing():
    tw.manual_seed(5)
    x = tw.ones(3, 20, 20)
    areas = []
    for _ in range(50):
        out = T.RandomErasing(p=1.0, scale=(0.1, 0.3))(x)
        zero = out.numpy() == 0
        assert (zero[0] == zero[1]).all()
        areas.append(zero[0].mean())
    assert min(areas) > 0.08 and max(areas) < 0.33
    assert x.numpy().min() == 1.0
    assert T.RandomErasing(p=0.0)(x) is x
    out = T.RandomErasing(p=1.0, value=(2.0, 3.0, 4.0))(x).numpy()
    assert {float(v) for v in np.unique(out)} == {1.0, 2.0, 3.0, 4.0}
    assert len(np.unique(T.RandomErasing(p=1.0, value="random")(x).numpy())) > 20
    y = tw.ones(1, 8, 8)
    assert T.RandomErasing(p=1.0, inplace=True)(y) is y and y.numpy().min() == 0
    with pytest.raises(ShapeError, match="2 numbers"):
        T.RandomErasing(p=1.0, value=(1, 2))(x)
    with pytest.raises(TypeError, match="ToTensor"):
        T.RandomErasing(p=1.0)(RGB)


def test_compose_lambda_and_choices():
    tw.manual_seed(6)
    add = [T.Lambda(lambda x, k=k: x + k) for k in (1, 10, 100)]
    assert T.Compose(add)(0) == 111
    assert {T.RandomChoice(add)(0) for _ in range(50)} == {1, 10, 100}
    assert {T.RandomChoice(add, p=[0, 1, 0])(0) for _ in range(9)} == {10}
    kept = sum(T.RandomApply(add, p=0.3)(0) == 111 for _ in range(1000))
    assert abs(kept - 300) < 60
    digits = [T.Lambda(lambda x, k=k: x * 10 + k) for k in (1, 2, 3)]
    assert {T.RandomOrder(digits)(0) for _ in range(100)} == {123, 132, 213, 231, 312, 321}
    with pytest.raises(TypeError, match="function"):
        T.Lambda(3)


def test_reprs():
    text = repr(T.Compose([T.Resize(4), T.RandomApply([T.ToTensor()], p=0.3), T.Normalize([0.5], [0.5])]))
    assert text.splitlines() == [
        "Compose(",
        "    Resize(size=4, interpolation=bilinear, max_size=None, antialias=True)",
        "    RandomApply(p=0.3)(",
        "        ToTensor()",
        "    )",
        "    Normalize(mean=[0.5], std=[0.5])",
        ")",
    ]


def test_random_transforms_draw_from_the_samples_source():
    from twofold.data import DataLoader, Dataset

    class Pictures(Dataset):
        transform = T.Compose([
            T.RandomResizedCrop(6),
            T.RandomHorizontalFlip(),
            T.ColorJitter(0.3, 0.3, 0.3, 0.1),
            T.RandomAffine(10, (0.1, 0.1)),
            T.ToTensor(),
            T.RandomErasing(value="random"),
        ])  # fmt: skip

        def __getitem__(self, i):
            return self.transform(Image.fromarray(RGB)), sample_rng().random()

        def __len__(self):
            return 12

    def run(workers):
        tw.manual_seed(7)
        return [x.numpy() for x, _ in DataLoader(Pictures(), batch_size=5, shuffle=True, num_workers=workers)]

    for a, b in zip(run(0), run(3), strict=True):
        np.testing.assert_array_equal(a, b)


def test_palette_pictures_keep_their_colours():
    flat = np.zeros((4, 4, 3), np.uint8)
    flat[:2] = (250, 10, 60)
    out = F.vflip(Image.fromarray(flat).convert("P", palette=Image.Palette.ADAPTIVE))
    assert np.abs(np.asarray(out.convert("RGB")).astype(int) - flat[::-1]).max() <= 8


def test_what_is_no_picture():
    with pytest.raises(TypeError, match="got str"):
        F.hflip("cat.png")
    with pytest.raises(ShapeError, match=r"\(3,\)"):
        F.hflip(tw.zeros(3))
