"""klrp.data: where digits, photographs and weights come from, and what is refused."""

import gzip
import hashlib
import http.server
import os
import pickle
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import klrp
from klrp import data
from klrp.errors import KlrpError

GIVEN = os.environ.get("KLRP_DATA", "none")
REAL = Path(GIVEN if GIVEN else "none").expanduser()
needs_mnist = pytest.mark.skipif(not (REAL / "MNIST" / "raw").is_dir(), reason="KLRP_DATA holds no MNIST/raw")
SQUEEZENET = REAL / "weights" / "squeezenet1_1_imagenet_fp32.pth"
SQUEEZENET_SHA256 = "d9f2bb067776f3b3498d68f0932d478846c5c308709771c679084900f4a7fa2f"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for every test, and the embedded data unless the test says otherwise."""
    monkeypatch.setenv("KLRP_DATA", "none")
    monkeypatch.setenv("KLRP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def asked(monkeypatch):
    """The addresses that were asked for, on a machine without a network."""
    addresses = []

    def refuse(request, *args, **kwargs):
        addresses.append(getattr(request, "full_url", request))
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return addresses


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """A folder with an MNIST of 7 + 5 images, which torchvision takes for the real one."""
    rng = np.random.default_rng(0)
    raw, resources, sizes = tmp_path / "given" / "MNIST" / "raw", [], {}
    raw.mkdir(parents=True)
    for part, n in (("train", 7), ("t10k", 5)):
        pixels = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        pixels[0, 0, :2] = 0, 255
        blobs = {
            f"{part}-images-idx3-ubyte": struct.pack(">4i", 0x803, n, 28, 28) + pixels.tobytes(),
            f"{part}-labels-idx1-ubyte": struct.pack(">2i", 0x801, n) + bytes(range(n)),
        }
        for name, blob in blobs.items():
            (raw / f"{name}.gz").write_bytes(gzip.compress(blob))
            md5 = hashlib.md5((raw / f"{name}.gz").read_bytes()).hexdigest()
            resources.append((f"{name}.gz", md5))
            sizes[name] = len(blob)
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    monkeypatch.setattr(data.mnist, "MNIST_BYTES", sizes)
    return tmp_path / "given"


@pytest.fixture
def mirror(small_mnist, monkeypatch):
    """The folder that a web server on this machine offers as torchvision's only mirror."""
    raw = small_mnist / "MNIST" / "raw"

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(raw))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.delenv("KLRP_DATA")
        address = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address])
        yield raw
        server.shutdown()
        thread.join()


def files(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


# Digits


def test_embedded_digits_look_like_mnist(asked, cache, capsys):
    d = data.digits()
    assert d.source == "sklearn-digits" and repr(d) == "Digits(source='sklearn-digits')"
    assert d.train_images.shape == (1437, 1, 28, 28) and d.test_images.shape == (360, 1, 28, 28)
    assert d.train_images.dtype == d.test_images.dtype == torch.float32
    assert d.train_labels.dtype == d.test_labels.dtype == torch.int64
    images = torch.cat([d.train_images, d.test_images])
    assert images.min() == 0 and 0.99 < images.max() <= 1
    border = torch.ones(28, 28, dtype=torch.bool)
    border[4:24, 4:24] = False
    assert not images[:, 0, border].any()
    assert images[:, 0, 4].any() and images[:, 0, 23].any()
    assert asked == [] and not cache.exists()
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "1437 training and 360 test images (KLRP_DATA=none)" in out


def test_embedded_split_is_fixed_stratified_and_complete():
    d, again = data.digits(), data.digits()
    assert torch.equal(d.train_images, again.train_images)
    assert torch.equal(d.test_labels, again.test_labels)
    assert d.test_labels.bincount().min() >= 34 and d.test_labels.bincount().max() <= 38
    both = torch.cat([d.train_images, d.test_images]).flatten(1)
    assert len(torch.unique(both, dim=0)) == 1797
    # A digit whose label went astray would be far from its class's mean.
    means = torch.stack([d.train_images[d.train_labels == c].mean(0) for c in range(10)])
    nearest = torch.cdist(d.test_images.flatten(1), means.flatten(1)).argmin(1)
    assert (nearest == d.test_labels).float().mean() > 0.85


def test_mnist_is_unpacked_from_the_folder_into_the_cache(small_mnist, cache, asked, monkeypatch, capsys):
    monkeypatch.setenv("KLRP_DATA", str(small_mnist))
    before = files(small_mnist)
    d = data.digits()
    assert d.source == "mnist" and d.train_images.shape == (7, 1, 28, 28)
    assert d.train_images[0, 0, 0, :2].tolist() == [0.0, 1.0]
    assert d.train_images.dtype == torch.float32 and d.test_labels.tolist() == [0, 1, 2, 3, 4]
    assert files(small_mnist) == before and files(cache) == sorted(data.mnist.MNIST_BYTES)
    assert "MNIST, 7 training and 5 test images (KLRP_DATA)" in capsys.readouterr().out
    # A second look-up, without the folder, finds the cache.
    monkeypatch.delenv("KLRP_DATA")
    assert torch.equal(data.digits(download=False).train_images, d.train_images)
    assert "(cache)" in capsys.readouterr().out and asked == []


def test_file_cut_off_in_the_cache_is_unpacked_again(small_mnist, cache, monkeypatch):
    monkeypatch.setenv("KLRP_DATA", str(small_mnist))
    expected = data.digits()
    cut = cache / "MNIST" / "raw" / "train-images-idx3-ubyte"
    cut.write_bytes(cut.read_bytes()[:1000])
    assert torch.equal(data.digits().train_images, expected.train_images)


def test_interrupted_unpacking_leaves_nothing_behind(small_mnist, cache, monkeypatch):
    monkeypatch.setenv("KLRP_DATA", str(small_mnist))
    extract = torchvision.datasets.utils.extract_archive

    def full_disc(path, folder):
        if "t10k-labels" in path.name:
            raise OSError(28, "No space left on device")
        return extract(path, folder)

    monkeypatch.setattr(torchvision.datasets.utils, "extract_archive", full_disc)
    with pytest.raises(KlrpError, match=r"No space left on device.*KLRP_CACHE"):
        data.digits()
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut off", "missing"])
def test_damaged_mnist_is_named(small_mnist, cache, asked, monkeypatch, damage):
    monkeypatch.setenv("KLRP_DATA", str(small_mnist))
    path = small_mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.unlink()
    if damage == "cut off":
        path.write_bytes(whole[:-7])
    md5 = hashlib.md5(whole).hexdigest()
    came = rf"has md5 \w{{32}} \({len(whole) - 7} bytes\)" if damage == "cut off" else "is missing"
    with pytest.raises(KlrpError, match=rf"{path.name} {came}; MNIST's has md5 {md5}. Fetch the file"):
        data.digits()
    assert not cache.exists() and asked == []


def test_folder_that_does_not_exist(monkeypatch, tmp_path):
    monkeypatch.setenv("KLRP_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(KlrpError, match=r"nowhere', which is no folder.*'none'"):
        data.digits()


def test_cache_that_cannot_be_written(small_mnist, monkeypatch, tmp_path):
    monkeypatch.setenv("KLRP_DATA", str(small_mnist))
    (tmp_path / "plain").write_text("a file")
    monkeypatch.setenv("KLRP_CACHE", str(tmp_path / "plain"))
    with pytest.raises(KlrpError, match=r"Writing to .*plain failed.*Set KLRP_CACHE"):
        data.digits()


@pytest.mark.parametrize("folder", [None, "", "empty"])
def test_without_a_network_the_embedded_digits_serve(folder, tmp_path, asked, monkeypatch, capsys):
    monkeypatch.delenv("KLRP_DATA")
    if folder is not None:
        (tmp_path / "empty").mkdir()
        monkeypatch.setenv("KLRP_DATA", folder and str(tmp_path / folder))
    assert data.digits().source == "sklearn-digits"
    assert len(asked) == 1 and asked[0].endswith("train-images-idx3-ubyte.gz")
    captured = capsys.readouterr()
    assert "the network cannot be reached" in captured.out and captured.out.count("\n") == 1
    assert captured.err == ""


def test_download_false_asks_nobody(asked, monkeypatch, capsys):
    monkeypatch.delenv("KLRP_DATA")
    assert data.digits(download=False).source == "sklearn-digits"
    assert asked == [] and "download=False" in capsys.readouterr().out


def test_network_that_never_answers_costs_little_time(monkeypatch, capsys):
    over = threading.Event()

    def hang(*args, **kwargs):
        over.wait(20)
        raise urllib.error.URLError("too late")

    monkeypatch.delenv("KLRP_DATA")
    monkeypatch.setattr(data.mnist, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(urllib.request, "urlopen", hang)
    start = time.perf_counter()
    assert data.digits().source == "sklearn-digits"
    assert time.perf_counter() - start < 10
    assert "the network cannot be reached" in capsys.readouterr().out
    over.set()


def test_download_fills_the_cache(mirror, cache, capsys):
    assert data.digits().train_images.shape == (7, 1, 28, 28)
    assert files(cache) == sorted(data.mnist.MNIST_BYTES)
    assert "(downloaded to the cache)" in capsys.readouterr().out
    assert socket.getdefaulttimeout() is None


def test_download_that_fails_midway_falls_back(mirror, cache, capsys):
    (mirror / "t10k-labels-idx1-ubyte.gz").write_bytes(b"not what was promised")
    assert data.digits().source == "sklearn-digits"
    assert files(cache) == [] and "MNIST's download failed with" in capsys.readouterr().out
    assert socket.getdefaulttimeout() is None


@needs_mnist
def test_real_mnist(monkeypatch, tmp_path):
    monkeypatch.setenv("KLRP_DATA", GIVEN)
    d = data.digits()
    assert d.source == "mnist" and d.train_images.shape == (60000, 1, 28, 28)
    assert d.test_images.shape == (10000, 1, 28, 28) and d.train_images.max() == 1
    assert d.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert d.test_labels.bincount().tolist()[:3] == [980, 1135, 1032]
    assert d.train_images.mean().item() == pytest.approx(0.1307, abs=1e-4)


# Photographs


@pytest.mark.parametrize("name", ["china", "flower"])
def test_embedded_photos_may_be_shared(name):
    p = data.photo(name, size=53)
    assert p.image.shape == (1, 3, 53, 53) and p.image.dtype == torch.float32
    assert p.image.min() >= 0 and 0.9 < p.image.max() <= 1
    assert (p.name, p.source, p.shareable) == (name, "scikit-learn", True)
    assert "tensor" not in repr(p)


def test_photo_is_scaled_on_its_shorter_side_and_cut_in_the_middle(tmp_path):
    stripes = np.zeros((20, 60, 3), dtype=np.uint8)
    stripes[:, :20, 0] = stripes[:, 20:40, 1] = stripes[:, 40:, 2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    p = data.photo(tmp_path / "stripes.png", size=10)
    green = torch.tensor([0.0, 1, 0])[:, None, None].expand(3, 10, 8)
    assert p.image.shape == (1, 3, 10, 10) and torch.equal(p.image[0, :, :, 1:-1], green)
    assert (p.name, p.source, p.shareable) == ("stripes", "file", False)


def test_photo_of_the_right_size_is_not_resampled(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (23, 23, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    image = data.photo(str(tmp_path / "noise.png"), size=23).image
    assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)


def test_grey_photo_becomes_rgb_and_a_turned_one_upright(tmp_path):
    Image.new("L", (9, 9), 255).save(tmp_path / "grey.png")
    assert torch.equal(data.photo(tmp_path / "grey.png", size=5).image, torch.ones(1, 3, 5, 5))
    turned = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 3
    turned.save(tmp_path / "turned.png", exif=exif)
    image = data.photo(tmp_path / "turned.png", size=16).image
    expected = torch.from_numpy(np.array(turned)).permute(2, 0, 1)[None].flip(2, 3) / 255
    assert torch.equal(image, expected)


def test_photo_by_its_name_in_the_folder(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "photos" / "night.jpg")
    monkeypatch.setenv("KLRP_DATA", str(tmp_path))
    for name in ("night", "night.jpg"):
        p = data.photo(name, size=7)
        assert (p.name, p.source, p.shareable) == ("night", "KLRP_DATA", False)
    with pytest.raises(KlrpError, match=r"no file day. .*among china, flower, night"):
        data.photo("day")


def test_missing_photo_names_the_embedded_ones():
    with pytest.raises(KlrpError, match=r"no file nowhere.jpg.*china, flower\."):
        data.photo("nowhere.jpg")


def test_file_that_is_no_image(tmp_path):
    (tmp_path / "text.jpg").write_text("a thousand words")
    with pytest.raises(KlrpError, match=r"text.jpg cannot be read as an image.*JPEG or PNG"):
        data.photo(tmp_path / "text.jpg")
    Image.effect_noise((90, 90), 50).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1500])
    with pytest.raises(KlrpError, match=r"cut.jpg cannot be read as an image .*truncated"):
        data.photo(tmp_path / "cut.jpg")


@pytest.mark.parametrize("size", [0, -3, 22.4])
def test_photo_size(size):
    with pytest.raises(KlrpError, match=f"size is {size}; give a number of pixels"):
        data.photo("china", size=size)


@pytest.fixture
def small_imagenette(tmp_path, monkeypatch):
    """Four photographs of 9 x 6 pixels for each class and split, of one grey each, and other files."""
    for s, split in enumerate(("train", "val")):
        for c in reversed(range(10)):
            folder = tmp_path / "imagenette2-160" / split / f"n0{c}"
            folder.mkdir(parents=True)
            for i in reversed(range(4)):
                grey = 100 * s + 10 * c + i
                Image.new("L", (9, 6), grey).save(folder / f"{i}.JPEG", quality=100)
            (folder / "notes.txt").write_text("no photograph")
        (tmp_path / "imagenette2-160" / split / "nothing.txt").write_text("no folder")
    monkeypatch.setenv("KLRP_DATA", str(tmp_path))
    return tmp_path / "imagenette2-160"


@pytest.mark.parametrize("per_class, chosen", [(1, [2]), (2, [1, 3]), (3, [0, 2, 3]), (4, [0, 1, 2, 3])])
@pytest.mark.parametrize("split", ["train", "val"])
def test_imagenette_is_spread_evenly_in_the_order_of_names(small_imagenette, capsys, split, per_class, chosen):
    photos = data.imagenette(split, per_class=per_class, size=6)
    labels = [c for c in range(10) for _ in chosen]
    assert photos.labels.tolist() == labels and photos.labels.dtype == torch.int64
    assert photos.images.shape == (10 * per_class, 3, 6, 6) and photos.images.dtype == torch.float32
    greys = (photos.images * 255 - 100 * (split == "val")).round()
    expected = torch.tensor([10 * c + i for c in range(10) for i in chosen])[:, None, None, None]
    assert torch.equal(greys, expected.float().expand_as(greys))
    assert photos.names[4] == "church" and len(photos.names) == 10
    assert (photos.source, photos.shareable) == ("imagenette", False)
    assert "tensor" not in repr(photos)
    assert capsys.readouterr().out == (
        f"imagenette: {10 * per_class} photographs, {per_class} of each class of {split} (KLRP_DATA)\n"
    )


def test_without_imagenette_there_are_crops_of_the_embedded_photographs(tmp_path, monkeypatch, capsys):
    photos = data.imagenette(per_class=3, size=40)
    assert photos.images.shape == (6, 3, 40, 40) and photos.labels.tolist() == [4, 4, 4, -1, -1, -1]
    assert (photos.source, photos.shareable) == ("scikit-learn", True)
    assert len(photos.images.flatten(1).unique(dim=0)) == 6
    for label, name in ((4, "china"), (-1, "flower")):
        middle = photos.images[photos.labels == label][1]
        assert torch.equal(middle, data.photo(name, size=40).image[0])
    assert "3 crops each of scikit-learn's china and flower" in capsys.readouterr().out
    monkeypatch.setenv("KLRP_DATA", str(tmp_path))  # a folder without Imagenette
    assert torch.equal(data.imagenette(per_class=3, size=40).images, photos.images)


@pytest.mark.parametrize("arguments, said", [
    ({"split": "test"}, r"split is 'test'; give 'val' or 'train'"),
    ({"per_class": 0}, r"per_class is 0; give a number of photographs"),
    ({"per_class": None}, r"per_class is None; give a number of photographs"),
    ({"size": 2.5}, r"size is 2\.5; give a number of pixels"),
    ({"per_class": 5}, r"n00 has 4 files \*\.JPEG, and per_class is 5\. Ask for fewer"),
])  # fmt: skip
def test_imagenette_names_what_is_wrong(small_imagenette, arguments, said):
    with pytest.raises(KlrpError, match=f"imagenette: .*{said}"):
        data.imagenette(**arguments)


def test_damaged_imagenette(small_imagenette):
    (small_imagenette / "val" / "n05" / "2.JPEG").write_text("a thousand words")
    with pytest.raises(KlrpError, match=r"n05/2.JPEG cannot be read as an image.*Fetch Imagenette"):
        data.imagenette(per_class=1, size=6)
    for path in (small_imagenette / "val" / "n05").iterdir():
        path.unlink()
    (small_imagenette / "val" / "n05").rmdir()
    with pytest.raises(KlrpError, match=r"val has 9 folders n\.\.\.; expected .* ten classes"):
        data.imagenette(per_class=1, size=6)


@pytest.mark.skipif(not (REAL / "imagenette2-160").is_dir(), reason="KLRP_DATA holds no imagenette2-160")
def test_the_real_imagenette_has_torchvisions_classes(monkeypatch):
    monkeypatch.setenv("KLRP_DATA", GIVEN)
    photos = data.imagenette("train", per_class=1, size=32)
    theirs = torchvision.datasets.Imagenette(REAL, split="train", size="160px").classes
    assert photos.images.shape == (10, 3, 32, 32)
    assert all(name in names for name, names in zip(photos.names, theirs, strict=True))


def test_imagenet_normalise_agrees_with_torchvision():
    x = torch.rand(2, 3, 5, 7, dtype=torch.float64)
    transform = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.transforms()
    expected = (x - x.new_tensor(transform.mean)[:, None, None]) / x.new_tensor(transform.std)[:, None, None]
    torch.testing.assert_close(data.imagenet_normalise(x), expected)
    torch.testing.assert_close(data.imagenet_normalise(x[0]), expected[0])


def test_imagenet_normalise_refuses_bytes_and_grey():
    with pytest.raises(KlrpError, match=r"x is torch.uint8; give floats"):
        data.imagenet_normalise(torch.zeros(3, 5, 7, dtype=torch.uint8))
    for shape in [(2, 1, 5, 7), (5, 3)]:
        with pytest.raises(KlrpError, match=r"expected \[..., 3, height, width\]"):
            data.imagenet_normalise(torch.zeros(shape))


# Weights


class Trap:
    """Unpickling this makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_weights_come_back_as_they_were(tmp_path):
    weights = torch.randn(3, 5, requires_grad=True)
    state = {
        "weight": weights,
        "tied": weights,
        "turned": torch.arange(6).reshape(2, 3).T,
        "half": torch.tensor([0.1], dtype=torch.float16),
        "number": torch.tensor(7),
        "empty": torch.zeros(0, 2),
    }
    path = tmp_path / "new" / "w.safetensors"
    data.save_weights(path, state)
    for given in (None, sha256(path), sha256(path).upper()):
        loaded = data.load_weights(path, given)
        assert loaded.keys() == state.keys()
        for name, x in state.items():
            assert loaded[name].dtype == x.dtype and torch.equal(loaded[name], x.detach())
    loaded["weight"].zero_()
    assert loaded["tied"].any() and files(tmp_path) == ["w.safetensors"]


def test_failed_writing_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    data.save_weights(path, {"x": torch.ones(3)})

    def half(self, blob):
        with open(self, "wb") as file:
            file.write(blob[: len(blob) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(KlrpError, match=r"No space left on device.*Give a path in a folder"):
        data.save_weights(path, {"x": torch.zeros(3)})
    assert torch.equal(data.load_weights(path)["x"], torch.ones(3))
    assert files(tmp_path) == ["w.safetensors"]


def test_save_weights_takes_dense_tensors_only(tmp_path):
    state = {"a": torch.ones(2), "b": 3.0, "c": torch.eye(2).to_sparse()}
    with pytest.raises(KlrpError, match=r"\['b', 'c'\] are no dense tensors; leave them out"):
        data.save_weights(tmp_path / "w", state)
    with pytest.raises(KlrpError, match=r"state_dict is a Linear; give model.state_dict\(\)"):
        data.save_weights(tmp_path / "w", torch.nn.Linear(2, 3))
    assert files(tmp_path) == []


def test_missing_weights(tmp_path):
    with pytest.raises(KlrpError, match=r"No such file.*nowhere.*give the path of a file"):
        data.load_weights(tmp_path / "nowhere")
    with pytest.raises(KlrpError, match=r"directory.*give the path of a file"):
        data.load_weights(tmp_path)


def test_truncated_weights(tmp_path):
    path = tmp_path / "w.safetensors"
    data.save_weights(path, {"x": torch.ones(50)})
    whole = path.read_bytes()
    for n in (0, 5, 30, len(whole) - 1):
        path.write_bytes(whole[:n])
        with pytest.raises(KlrpError, match=rf"\({n} bytes\) is no whole safetensors.*fetch it ag"):
            data.load_weights(path)


def test_wrong_hash(tmp_path):
    path = tmp_path / "w.safetensors"
    data.save_weights(path, {"x": torch.ones(3)})
    came = sha256(path)
    for wrong in ("0" * 64, came[:8]):
        with pytest.raises(KlrpError, match=f"sha256 {came}; expected {wrong}. .*fetch it again"):
            data.load_weights(path, wrong)


def test_length_that_looks_like_a_pickle_is_none(tmp_path):
    header = b'{"x":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}'.ljust(0x280)
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes([2, 3, 5]))
    assert path.read_bytes()[:2] == pickle.dumps(0, protocol=2)[:2]
    assert data.load_weights(path)["x"].tolist() == [2, 3, 5]


@pytest.mark.parametrize("kind", ["pickle", "text pickle", "legacy torch"])
def test_pickles_are_never_opened(tmp_path, kind):
    path, trap = tmp_path / "w.pkl", tmp_path / "sprung"
    if kind == "legacy torch":
        path = tmp_path / "w.pth"
        torch.save({"x": Trap(trap)}, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(Trap(trap), protocol=0 if kind == "text pickle" else None))
    for given in (None, sha256(path)):
        with pytest.raises(KlrpError, match=r"is a pickle.* not opened.*convert it once"):
            data.load_weights(path, given)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Trap(trap)))
    assert trap.exists(), "the trap itself does not work"


def test_torch_zip_file_needs_its_hash(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(torch.nn.Linear(2, 3).state_dict(), path)
    with pytest.raises(KlrpError, match=r"torch zip file.*Give the sha256.*convert it once"):
        data.load_weights(path)
    assert data.load_weights(path, sha256(path))["weight"].shape == (3, 2)


@pytest.mark.parametrize("content", ["trap", "nested", "module"])
def test_torch_zip_file_gives_tensors_only(tmp_path, content):
    path, trap = tmp_path / "w.pth", tmp_path / "sprung"
    held = {"trap": {"x": Trap(trap)}, "nested": {"epoch": 3}, "module": torch.nn.Linear(2, 3)}
    torch.save(held[content], path)
    with pytest.raises(KlrpError, match=r"no plain dictionary of tensors. Save the network's"):
        data.load_weights(path, sha256(path))
    assert not trap.exists()


@pytest.mark.skipif(not SQUEEZENET.is_file(), reason="KLRP_DATA holds no SqueezeNet")
def test_photo_normalisation_and_weights_recognise_the_castle(monkeypatch):
    monkeypatch.setenv("KLRP_DATA", GIVEN)
    network = torchvision.models.squeezenet1_1(weights=None).eval()
    network.load_state_dict(data.load_weights(SQUEEZENET, SQUEEZENET_SHA256))
    with torch.no_grad():
        p = network(data.imagenet_normalise(data.photo("castle").image)).softmax(1)[0]
    # Classes 483 and 873 of ImageNet: castle and triumphal arch.
    assert p.topk(2).indices.tolist() == [483, 873]
    assert p[483].item() == pytest.approx(0.337, abs=2e-3)


def test_a_grey_picture_of_sixteen_bits_is_scaled_by_its_depth(tmp_path):
    from PIL import Image

    deep = (np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    found = klrp.data.photo(tmp_path / "deep.png", size=64).image[0, 0]
    assert float((found - torch.as_tensor(deep / 65535, dtype=torch.float32)).abs().max()) < 1 / 255
