"""klrp.models: the networks, their training against a loop that spells it out, what is refused."""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import train_digits
import train_vgg
from PIL import Image
from torch import nn

import klrp
from klrp import data, models
from klrp.errors import KlrpError
from klrp.models import digits, photographs, shipped

GIVEN = os.environ.get("KLRP_DATA", "none")
FOLDER = Path(GIVEN if GIVEN else "none").expanduser()
MNIST, IMAGENETTE = FOLDER / "MNIST" / "raw", FOLDER / "imagenette2-160" / "val"
ASSET = shipped.WEIGHTS / photographs.VGG_FILE


@pytest.fixture(autouse=True)
def embedded(tmp_path, monkeypatch):
    monkeypatch.setenv("KLRP_DATA", "none")
    monkeypatch.setenv("KLRP_CACHE", str(tmp_path))
    # On a busy machine, threads that wait for each other make these small products 20 times slower.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def task():
    """A network 6-7-5 with dropout, and 23 images of 2 x 3 pixels: no multiple of 4."""
    g = torch.Generator().manual_seed(0)
    network = models.mlp((6, 7, 5), seed=1)
    network.insert(2, nn.Dropout(0.5))
    return network, torch.rand(23, 2, 3, generator=g), torch.randint(5, (23,), generator=g)


def same(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_mlp_is_the_network_of_the_paper():
    network = models.mlp()
    kinds = [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [type(layer) for layer in network] == kinds
    assert [tuple(p.shape) for p in network.parameters()][::2] == [(300, 784), (100, 300), (10, 100)]
    assert network(torch.rand(3, 1, 28, 28)).shape == (3, 10)
    assert [type(layer) for layer in models.mlp([2, 3])] == [nn.Flatten, nn.Linear]


def test_mlp_is_fixed_by_its_seed_alone():
    torch.manual_seed(5)
    first, state = models.mlp((5, 3)), torch.get_rng_state()
    torch.manual_seed(7)
    assert same(first, models.mlp((5, 3), seed=0)) and not same(first, models.mlp((5, 3), seed=1))
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), state), "mlp drew from the caller's generator"


@pytest.mark.parametrize("sizes", [(), (784,), (784, 0, 10), (784, 2.5, 10)])
def test_mlp_sizes(sizes):
    with pytest.raises(KlrpError, match=r"mlp: sizes is .*two or more integers >= 1"):
        models.mlp(sizes)


def test_train_is_plain_gradient_descent(task):
    network, images, labels = task
    network[2] = nn.Identity()
    trained = models.train(network, images, labels, epochs=3, lr=0.3, batch=4, seed=11)
    weights = [p.detach().clone().requires_grad_() for p in network.parameters()]
    order = torch.Generator().manual_seed(11)
    for _ in range(3):
        rows = torch.randperm(23, generator=order)
        for start in range(0, 23, 4):
            batch = rows[start : start + 4]
            w1, b1, w2, b2 = weights
            logits = (images[batch].flatten(1) @ w1.T + b1).relu() @ w2.T + b2
            wrong = -logits.log_softmax(1)[range(len(batch)), labels[batch]].mean()
            for w, slope in zip(weights, torch.autograd.grad(wrong, weights), strict=True):
                w.data -= 0.3 * slope
    for w, p in zip(weights, trained.parameters(), strict=True):
        torch.testing.assert_close(w.detach(), p.detach(), rtol=1e-4, atol=1e-5)
    assert not same(network, trained)


def test_train_leaves_the_model_and_the_random_state_alone(task):
    network, images, labels = task
    network.train()
    before = models.mlp((6, 7, 5), seed=1)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    trained = models.train(network, images, labels)
    pairs = zip(before.parameters(), network.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    assert network.training and not any(m.training for m in trained.modules())
    assert all(p.grad is None for p in (*network.parameters(), *trained.parameters()))
    assert torch.equal(torch.get_rng_state(), state)


def test_train_gives_the_same_bits_also_with_dropout(task):
    runs = []
    for state in (1, 2):
        torch.manual_seed(state)
        runs.append(models.train(*task, epochs=2, seed=3))
    assert same(*runs) and not same(runs[0], models.train(*task, epochs=2, seed=4))
    # Dropout is on while it trains, whatever mode the model came in.
    task[0].eval()
    assert same(runs[0], models.train(*task, epochs=2, seed=3))


def test_train_for_no_epoch_under_no_grad_and_in_float64(task):
    network, images, labels = task
    assert same(network, models.train(network, images, labels, epochs=0))
    with torch.no_grad():
        assert not same(network, models.train(network, images, labels))
    double = models.train(network.double(), images.double(), labels)
    assert double[1].weight.dtype == torch.float64


def test_train_leaves_frozen_weights_as_they_are(task):
    network, images, labels = task
    network[1].requires_grad_(False)
    trained = models.train(network, images, labels)
    assert same(network[1], trained[1]) and not same(network[4], trained[4])
    with pytest.raises(KlrpError, match=r"all weights are frozen; call model.requires_grad_"):
        models.train(network.requires_grad_(False), images, labels)


def test_progress_goes_to_stderr(task, capsys):
    models.train(*task, progress=False)
    assert capsys.readouterr() == ("", "")
    models.train(*task, progress=True)
    captured = capsys.readouterr()
    # The bar is wiped in the end: what is left of it is a line of blanks.
    assert captured.out == "" and "train:" in captured.err
    assert captured.err.rsplit("\r", 2)[1].strip() == ""


def test_accuracy_is_the_fraction_that_is_right():
    network = nn.Sequential(nn.Identity(), nn.Dropout(0.9)).train()
    logits = torch.eye(5)[torch.tensor([0, 1, 2, 3, 4, 0, 0])]
    labels = torch.tensor([0, 1, 2, 3, 1, 1, 1])
    for batch in (1, 3, 7, 1000):
        assert models.accuracy(network, logits, labels, batch=batch) == 4 / 7
    assert network.training and network[1].training


def test_digit_mlp_learns_the_embedded_digits():
    d = data.digits()
    network = models.digit_mlp(d, seed=0, epochs=30, progress=False)
    assert models.accuracy(network, d.test_images, d.test_labels) >= 0.93
    assert not network.training
    assert same(models.digit_mlp(d, seed=2, epochs=0), models.mlp(seed=2))


def test_digit_mlp_follows_the_images_not_the_default_dtype():
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        for epochs in (0, None):
            assert models.digit_mlp(data.digits(), epochs=epochs)[1].weight.dtype == torch.float32
        assert models.digit_mlp()[1].weight.dtype == models.mlp((3, 2))[1].weight.dtype == torch.float64
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("seed", digits.SEEDS)
def test_digit_mlp_is_shipped(seed, capsys):
    d = data.digits()
    network = models.digit_mlp(d, seed=seed)
    assert f"shipped network of seed {seed}, trained on scikit-learn's digits" in capsys.readouterr().out
    assert models.accuracy(network, d.test_images, d.test_labels) >= 0.96
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    of_mnist = models.digit_mlp(seed=seed)
    assert f"shipped network of seed {seed}, trained on MNIST" in capsys.readouterr().out
    assert not same(network, of_mnist) and not same(of_mnist, models.digit_mlp(seed=(seed + 1) % 5))
    # It began with the weights of its seed, so that a network which was never trained needs another seed.
    likeness = [
        float(
            torch.corrcoef(
                torch.stack([of_mnist[1].weight.flatten(), models.mlp(seed=s)[1].weight.detach().flatten()])
            )[0, 1]
        )
        for s in range(6)
    ]
    assert max(range(6), key=likeness.__getitem__) == seed and likeness[seed] > 0.7 and sorted(likeness)[-2] < 0.1


@pytest.mark.parametrize("seed", digits.SEEDS)
@pytest.mark.skipif(not MNIST.is_dir(), reason="KLRP_DATA holds no MNIST/raw")
def test_digit_mlp_knows_mnist(seed, monkeypatch):
    monkeypatch.setenv("KLRP_DATA", GIVEN)
    d = data.digits()
    assert 0.953 <= models.accuracy(models.digit_mlp(d, seed=seed), d.test_images, d.test_labels) <= 0.961


@pytest.mark.skipif(not MNIST.is_dir(), reason="KLRP_DATA holds no MNIST/raw")
def test_digit_mlp_learns_mnist_in_one_epoch(monkeypatch):
    monkeypatch.setenv("KLRP_DATA", GIVEN)
    d = data.digits()
    network = models.digit_mlp(d, seed=0, epochs=1, progress=False)
    assert 0.953 <= models.accuracy(network, d.test_images, d.test_labels) <= 0.961
    # The shipped one is that network, but for its rounding and for what another machine's sums differ in.
    sample = d.test_images[:1000]
    assert (network(sample).argmax(1) == models.digit_mlp(d)(sample).argmax(1)).double().mean() > 0.97


def test_digit_mlp_wants_digits():
    with pytest.raises(KlrpError, match=r"digits is a Tensor; give what klrp.data.digits\(\)"):
        models.digit_mlp(torch.rand(3, 1, 28, 28))
    with pytest.raises(KlrpError, match="epochs=-1"):
        models.digit_mlp(data.digits(), epochs=-1)
    for wrong in (dict(seed=5), dict(epochs=1)):
        with pytest.raises(KlrpError, match="seeds 0 to 4 are shipped.*digits=klrp.data.digits"):
            models.digit_mlp(**wrong)


def test_the_toy_network_is_that_of_paper_and_pencil():
    network, x = models.toy()
    assert [type(layer) for layer in network] == [nn.Linear, nn.ReLU, nn.Linear] and not network.training
    torch.testing.assert_close(network[:2](x), torch.tensor([[0.04, 3.285, 1.885]]))
    torch.testing.assert_close(network(x), torch.tensor([[1.455, -1.3985]]))
    assert network[0].weight.T[1, 2] == torch.tensor(-0.3) and network[2].weight.T[2, 0] == torch.tensor(-3.4)
    assert not any(p.requires_grad for p in network.parameters()) and network[0].bias is None


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda x, y: ((x * 255).byte(), y), r"images are torch.uint8 on cpu.*weights torch.float32"),
        (lambda x, y: (x.double(), y), r"images are torch.float64 .*images.to\(dtype\)"),
        (lambda x, y: (x, y.float()), r"labels are torch.float32 .*expected torch.int64"),
        (lambda x, y: (x, y[:-1]), r"images have shape \(23, 2, 3\), labels \(22,\)"),
        (lambda x, y: (x, y[:, None]), r"labels \(23, 1\); expected \[n, ...\] and \[n\]"),
        (lambda x, y: (x[:0], y[:0]), "with the same n >= 1"),
        (lambda x, y: (x[:, :1], y), r"no logits \[n, c\] of images of shape \(23, 1, 3\)"),
        (lambda x, y: (x, y + 1), r"labels run from 1 to 5; expected 0..4, .* has 5 outputs"),
        (lambda x, y: (x, y - 1), "labels run from -1 to 3; expected 0..4"),
    ],
)
@pytest.mark.parametrize("function", [models.train, models.accuracy])
def test_data_that_does_not_fit(task, function, change, match):
    network, images, labels = task
    with pytest.raises(KlrpError, match=f"^{function.__name__}: .*{match}"):
        function(network, *change(images, labels))


@pytest.mark.parametrize("wrong", [{"epochs": -1}, {"batch": 0}, {"lr": 0.0}, {"lr": float("nan")}])
def test_numbers_out_of_range(task, wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(KlrpError, match=f"train: .*{name}={value}.*; expected epochs >= 0"):
        models.train(*task, **wrong)
    if name == "batch":
        with pytest.raises(KlrpError, match="accuracy: batch=0; expected an integer >= 1"):
            models.accuracy(*task, **wrong)


def test_network_without_a_class_axis():
    with pytest.raises(KlrpError, match=r"makes no logits \[n, c\]"):
        models.accuracy(nn.Flatten(0), torch.rand(7), torch.zeros(7, dtype=torch.int64))


def test_vgg16_half_is_torchvisions_vgg16_bn_with_half_the_channels():
    from torchvision.models import vgg16_bn

    with torch.device("meta"):
        theirs = vgg16_bn()
    ours = models.vgg16_half(7)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for part in ("features", "classifier"):
        pair = [[type(m) for m in getattr(network, part)] for network in (ours, theirs)]
        assert pair[0] == pair[1]
    for half, full in zip(ours.features.parameters(), theirs.features.parameters(), strict=True):
        channels = [n if n == 3 else n // 2 for n in full.shape[:2]]
        assert list(half.shape) == [*channels, *full.shape[2:]]
    widths = [tuple(p.shape) for p in ours.classifier.parameters()][::2]
    assert widths == [(256, 256 * 7 * 7), (256, 256), (7, 256)]
    assert ours(torch.rand(2, 3, 32, 37)).shape == (2, 7)


def test_vgg16_half_is_fixed_by_its_seed_alone():
    torch.manual_seed(5)
    first, state = models.vgg16_half(), torch.get_rng_state()
    torch.manual_seed(7)
    assert same(first, models.vgg16_half(seed=0)) and not same(first, models.vgg16_half(seed=1))
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), state), "vgg16_half drew from the caller's generator"


@pytest.mark.parametrize("classes", [0, 2.5, "ten"])
def test_vgg16_half_classes(classes):
    with pytest.raises(KlrpError, match=f"vgg16_half: classes is {classes!r}; give an integer"):
        models.vgg16_half(classes)


def test_imagenette_vgg_is_the_shipped_file():
    assert ASSET.stat().st_size <= 15e6
    network = models.imagenette_vgg()
    assert same(network, models.imagenette_vgg(ASSET))
    assert not any(m.training for m in network.modules())
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in network.parameters())
    x = data.imagenet_normalise(data.photo("china").image)
    logits = network(x)
    assert logits.shape == (1, 10) and logits.isfinite().all()
    assert models.IMAGENETTE[logits.argmax()] == "church"


@pytest.mark.skipif(not IMAGENETTE.is_dir(), reason="KLRP_DATA holds no imagenette2-160/val")
def test_imagenette_vgg_knows_its_classes():
    files = [sorted(folder.iterdir())[:4] for folder in sorted(IMAGENETTE.iterdir())]
    images = torch.cat([data.photo(path).image for four in files for path in four])
    x, labels = data.imagenet_normalise(images), torch.arange(10).repeat_interleave(4)
    assert models.accuracy(models.imagenette_vgg(), x, labels, batch=10) >= 0.75


def test_imagenette_vgg_takes_no_other_file(tmp_path):
    other = tmp_path / "weights" / photographs.VGG_FILE
    data.save_weights(other, {"x": torch.zeros(2)})
    with pytest.raises(KlrpError, match=rf"{other} .* has sha256 .*expected {shipped.hashes()[other.name]}"):
        models.imagenette_vgg(other)
    with pytest.raises(KlrpError, match="no.safetensors.*give the path of a file"):
        models.imagenette_vgg(tmp_path / "no.safetensors")


def test_every_shipped_file_has_its_hash_and_no_other():
    assert sorted(shipped.hashes()) == sorted(path.name for path in shipped.WEIGHTS.glob("*.safetensors"))
    for file in shipped.hashes():
        assert all(isinstance(x, torch.Tensor) for x in shipped.shipped(file).values())


@pytest.mark.parametrize("name", ["digit_vit", "digit_lstm", "imagenette_vgg"])
def test_a_shipped_network_has_single_precision_whatever_the_default(name):
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert {p.dtype for p in getattr(models, name)().parameters()} == {torch.float32}
    finally:
        torch.set_default_dtype(before)


def test_the_shipped_files_come_with_the_package():
    """Whatever the current folder is; that a wheel holds them, tests/project checks."""
    assert shipped.WEIGHTS.parent == Path(models.__file__).parent


@pytest.fixture
def noise(tmp_path):
    """A folder of 2 x 4 pictures to train on and as many to validate on; arguments for the script."""
    draw = np.random.default_rng(0)
    for part in ("train", "val"):
        for i in range(8):
            path = tmp_path / part / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(256, size=(37, 32, 3), dtype=np.uint8)).save(path)
    folders = ["--data", str(tmp_path), "--cache", str(tmp_path / "cache")]
    return [*folders, "--size", "32", "--epochs", "1", "--batch", "4", "--every", "1"]


def test_training_goes_on_where_it_was_stopped(noise, tmp_path, capsys):
    def run(name, *more):
        files = ["--state", str(tmp_path / f"{name}.pt"), "--out", str(tmp_path / name)]
        train_vgg.main([*noise, *files, *more])

    run("whole")
    run("parts", "--steps", "1")
    assert not (tmp_path / "parts").exists(), "nothing is exported before an epoch ends"
    run("parts")
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "parts").read_bytes()
    states = [train_vgg.read(tmp_path / f"{name}.pt") for name in ("whole", "parts")]
    for part in ("network", "average"):
        assert all(torch.equal(x, states[1][part][k]) for k, x in states[0][part].items())
    assert states[0]["step"] == 2 and "of all at 32 pixels" in (tmp_path / "whole.log").read_text()

    train_vgg.main([*noise, "--export", str(tmp_path / "parts.pt"), "--out", str(tmp_path / "again")])
    assert (tmp_path / "again").read_bytes() == (tmp_path / "whole").read_bytes()
    capsys.readouterr()
    train_vgg.main([*noise, "--evaluate", str(tmp_path / "again")])
    assert f"{capsys.readouterr().out.split()[1]} of all" in (tmp_path / "whole.log").read_text()
    with pytest.raises(SystemExit, match="is of a run with .*'seed': 0"):
        run("whole", "--seed", "1")


def test_training_starts_from_the_weights_that_are_named(noise, tmp_path):
    start = tmp_path / "start.safetensors"
    data.save_weights(start, models.vgg16_half(2, seed=3).state_dict())
    for name, lr in (("still", "1e-12"), ("moved", "0.1")):
        files = ["--state", str(tmp_path / f"{name}.pt"), "--out", str(tmp_path / name)]
        train_vgg.main([*noise, *files, "--start", str(start), "--lr", lr, "--steps", "1"])
        network = train_vgg.read(tmp_path / f"{name}.pt")["network"]
        first = models.vgg16_half(2, seed=3).classifier[6].weight
        assert torch.allclose(network["classifier.6.weight"], first, atol=1e-9) == (name == "still")
    with pytest.raises(KlrpError, match="has sha256"):
        train_vgg.main([*noise, "--start", str(start), "--sha256", "0" * 64])


def test_training_on_sizes_without_epochs(noise):
    with pytest.raises(SystemExit, match="as many --epochs as --size"):
        train_vgg.main([*noise, "--epochs", "1", "2"])


# --- the transformer, the recurrent network, and the one for ImageNet ----------------------------------------


SHIPPED = {"digit_vit": "digit_vit.safetensors", "digit_lstm": "digit_lstm.safetensors"}
each_shipped = pytest.mark.parametrize("name", SHIPPED)


@each_shipped
def test_a_shipped_network_for_digits_is_that_of_its_file(name):
    path = ASSET.with_name(SHIPPED[name])
    assert path.stat().st_size <= 100_000
    build = getattr(models, name)
    network = build()
    assert same(network, build(path))
    assert not any(m.training for m in network.modules())
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in network.parameters())
    assert all(p.dtype == torch.float16 for p in data.load_weights(path, shipped.hashes()[path.name]).values())


@each_shipped
def test_a_shipped_network_knows_the_embedded_digits(name):
    d = data.digits()
    assert models.accuracy(getattr(models, name)(), d.test_images, d.test_labels) >= 0.96


@each_shipped
@pytest.mark.skipif(not MNIST.is_dir(), reason="KLRP_DATA holds no MNIST/raw")
def test_a_shipped_network_knows_mnist(name, monkeypatch):
    monkeypatch.setenv("KLRP_DATA", GIVEN)
    d = data.digits()
    assert models.accuracy(getattr(models, name)(), d.test_images, d.test_labels) >= 0.97


@each_shipped
def test_a_shipped_network_takes_no_other_file(name, tmp_path):
    other = tmp_path / SHIPPED[name]
    data.save_weights(other, {"x": torch.zeros(2)})
    with pytest.raises(KlrpError, match=rf"{other} .* has sha256 .*expected {shipped.hashes()[other.name]}"):
        getattr(models, name)(other)


@pytest.mark.parametrize("build", [models.vit, models.lstm])
def test_an_untrained_network_is_fixed_by_its_seed_alone(build):
    torch.manual_seed(5)
    first, state = build(), torch.get_rng_state()
    torch.manual_seed(7)
    assert same(first, build(seed=0)) and not same(first, build(seed=1))
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), state), "it drew from the caller's generator"
    assert first(torch.rand(3, 1, 28, 28)).shape == (3, 10)


def test_sizes_of_untrained_networks():
    for wrong in ((32, 5, 2), (32, 4, 0), (2.5, 1, 1)):
        with pytest.raises(KlrpError, match=r"vit: dim, heads and blocks are .*heads that divide dim"):
            models.vit(*wrong)
    with pytest.raises(KlrpError, match="lstm: hidden is 0; give an integer >= 1"):
        models.lstm(0)


def test_attention_of_the_transformer_is_torchs():
    network, x = models.vit(24, 3, 1, seed=2).eval(), torch.rand(5, 1, 28, 28)
    ours = network.blocks[0].attention
    theirs = nn.MultiheadAttention(24, 3, batch_first=True)
    with torch.no_grad():
        parts = (ours.query, ours.key, ours.value)
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        theirs.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
        theirs.out_proj.load_state_dict(ours.join.state_dict())
        tokens = network.blocks[0].norm1(network.tokens(x))
        out, weights = theirs(tokens, tokens, tokens, average_attn_weights=False)
        torch.testing.assert_close(ours(tokens), out)
        torch.testing.assert_close(network.attention(x)[0], weights)
    assert tokens.shape == (5, 17, 24) and weights.shape == (5, 3, 17, 17)


@each_shipped
def test_a_shipped_network_is_explained_in_every_semiring(name):
    network, x = getattr(models, name)(), data.digits().test_images[:3]
    x = x if name == "digit_vit" else x[..., 8:22, :]  # fewer rows are fewer steps
    real = klrp.explain(network, x)
    account = real.conservation()
    kept = sum(sum(getattr(entry, c) for c in ("bias", "stabiliser", "lost")) for entry in account.values())
    largest = max(float(entry.received.abs().amax()) for entry in account.values())
    torch.testing.assert_close(real.input.sum((1, 2, 3)) + kept, torch.ones(3), rtol=0, atol=1e-4 * largest)
    found = {s: klrp.explain(network, x, semiring=s).input for s in ("boolean", "counting", "viterbi")}
    assert torch.equal(found["counting"] > 0, found["boolean"]) and bool(found["boolean"].any())
    assert bool((found["viterbi"] >= 0).all()) and float(found["viterbi"].amax()) <= 1
    assert not found["viterbi"][x == 0].any()


def test_squeezenet_says_castle(monkeypatch):
    if (
        not (FOLDER / "weights" / photographs.SQUEEZE_FILE).is_file()
        or not (FOLDER / "photos" / "castle.jpg").is_file()
    ):
        pytest.skip("KLRP_DATA holds no SqueezeNet or no castle")
    monkeypatch.setenv("KLRP_DATA", GIVEN)
    network = models.squeezenet()
    assert not any(m.training for m in network.modules()) and not any(p.requires_grad for p in network.parameters())
    chance, k = network(data.imagenet_normalise(data.photo("castle").image)).softmax(1).max(1)
    assert k.item() == 483 and abs(chance.item() - 0.337) < 0.002


def test_squeezenet_says_what_is_missing(monkeypatch, tmp_path):
    with pytest.raises(KlrpError, match=rf"squeezenet: there is no weights/{photographs.SQUEEZE_FILE} in \$KLRP_DATA"):
        models.squeezenet()
    monkeypatch.setenv("KLRP_DATA", str(tmp_path))
    other = tmp_path / "weights" / photographs.SQUEEZE_FILE
    data.save_weights(other, {"x": torch.zeros(2)})
    with pytest.raises(KlrpError, match=rf"{other} .* has sha256 .*expected {photographs.SQUEEZE_SHA256}"):
        models.squeezenet()


LITE = not find_spec(photographs.LITE_WEIGHTS) or not find_spec(photographs.LITE_CODE)
lite = pytest.mark.skipif(LITE, reason="the packages of the extra imagenet are missing")


@lite
def test_efficientnet_lite0_says_castle(monkeypatch):
    if not (FOLDER / "photos" / "castle.jpg").is_file():
        pytest.skip("KLRP_DATA holds no photos/castle.jpg")
    monkeypatch.setenv("KLRP_DATA", GIVEN)
    network = models.efficientnet_lite0()
    assert not any(m.training or p.requires_grad for m in network.modules() for p in m.parameters())
    chance, k = network(data.photo("castle").image).softmax(1).max(1)
    assert k.item() == 483 and abs(chance.item() - 0.414) < 0.002


@lite
def test_efficientnet_lite0_is_explained():
    network, x = models.efficientnet_lite0().double(), data.photo("china").image.double()
    real = klrp.explain(network, x)
    account = real.conservation()
    kept = sum(entry.bias + entry.stabiliser + entry.lost for entry in account.values())
    torch.testing.assert_close(real.input.sum((1, 2, 3)) + kept, torch.ones(1).double(), rtol=0, atol=1e-6)
    theta = klrp.conversions.threshold(0.02)
    boolean, counting = (
        klrp.explain(network, x, semiring=s, theta=theta, keep="input").input for s in ("boolean", "counting")
    )
    assert boolean.any() and torch.equal(counting > 0, boolean)
    best = klrp.explain(network, x, semiring="viterbi", keep="input").input
    assert bool((best >= 0).all()) and 0 < float(best.amax()) <= 1


def test_efficientnet_lite0_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(photographs, "LITE_CODE", "no_such_package")
    with pytest.raises(KlrpError, match=r"no_such_package.* cannot be imported; pip install klrp\[imagenet\]"):
        models.efficientnet_lite0()


@lite
def test_efficientnet_lite0_opens_no_other_file(monkeypatch, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / photographs.LITE_FILE).write_bytes(b"\x80\x02another pickle")
    monkeypatch.setattr(photographs, "files", lambda name: tmp_path)
    with pytest.raises(
        KlrpError, match=rf"\(16 bytes\) has sha256 .*expected {photographs.LITE_SHA256}.*--force-reinst"
    ):
        models.efficientnet_lite0()


def test_the_script_trains_what_is_shipped(tmp_path, monkeypatch, capsys):
    few = data.digits()
    few = data.Digits(*(t[:130] for t in (few.train_images, few.train_labels, few.test_images, few.test_labels)), "few")
    monkeypatch.setattr(train_digits, "both", lambda: [few, few])
    runs = []
    for name in ("one", "two"):
        train_digits.main(["vit", "--epochs", "1", "--out", str(tmp_path / name)])
        runs.append((tmp_path / name / SHIPPED["digit_vit"]).read_bytes())
    assert runs[0] == runs[1] and len(runs[0]) == ASSET.with_name(SHIPPED["digit_vit"]).stat().st_size
    capsys.readouterr()
    train_digits.main(["lstm", "--evaluate"])
    assert "lstm: 0.9" in capsys.readouterr().out
