"""Checkpoint files as torch programs leave them: each has the right numbers, or is named."""

import bz2
import gzip
import lzma
import warnings
import zipfile

import ml_dtypes
import numpy as np
import pytest

from jaxstepper.errors import UserError
from jaxstepper.torch_files import file as torch_file
from jaxstepper.torch_files import variants

torch = pytest.importorskip("torch")
SAVE_ANEW = r"save it anew: torch\.save\(\{'model_state_dict': model\.state_dict\(\)"


class Net(torch.nn.Module):
    """Eleven inputs, five and four hidden units, two outputs."""

    def __init__(self):
        super().__init__()
        linear = torch.nn.Linear
        self.model = torch.nn.Sequential(
            linear(11, 5), torch.nn.Tanh(), linear(5, 4), torch.nn.Tanh(), linear(4, 2)
        )

    def forward(self, x):
        return self.model(x)


@pytest.fixture
def net():
    """A network with moments of Adam after one step."""
    torch.manual_seed(0)
    net = Net().double()
    net.optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    net(torch.ones(3, 11, dtype=torch.float64)).sum().backward()
    net.optimizer.step()
    return net


def content(net, optimizer=None, dtype="float64"):
    optimizer = optimizer or net.optimizer
    return {
        "epoch": 3,
        "model_state_dict": net.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "config": {"lr": 0.1},
        "history_len": 0,
        "feature_type": "basic",
        "dtype": dtype,
    }


def assert_holds(path, net, dtype=np.float64, moments=True):
    """The file has the numbers of the network, rounded as it was, and of its optimiser."""
    read = torch_file.read(path)
    assert read.dtype == np.dtype(dtype).name
    layers = [net.model[i] for i in (0, 2, 4)]
    assert len(read.variables["params"]) == len(layers)
    for number, layer in enumerate(layers):
        found = read.variables["params"][f"Dense_{number}"]
        for mine, theirs in ((found["kernel"].T, layer.weight), (found["bias"], layer.bias)):
            assert mine.dtype == dtype
            np.testing.assert_array_equal(mine, theirs.detach().double().numpy())
        if moments:
            squares = net.optimizer.state[layer.bias]["exp_avg_sq"].numpy()
            mine = read.adam.nu[f"Dense_{number}"]["bias"]
            np.testing.assert_allclose(mine, squares, rtol=4 * np.finfo(dtype).eps)
    assert (read.adam is not None) == moments


@pytest.mark.parametrize("wrap", ["DataParallel", "compile", "both"])
def test_a_wrapped_network_has_its_names_without_the_wrapper(wrap, net, tmp_path):
    wrapped = net
    if wrap != "DataParallel":
        # What `torch.compile` returns, without its imports of many seconds.
        wrapped = torch.nn.Module()
        wrapped._orig_mod = net
    if wrap != "compile":
        wrapped = torch.nn.DataParallel(wrapped)
    names = list(wrapped.state_dict())
    assert names[0].count("module.") == (wrap != "compile")
    assert names[0].count("_orig_mod.") == (wrap != "DataParallel")
    torch.save(content(wrapped, net.optimizer), tmp_path / "x.pt")
    assert_holds(tmp_path / "x.pt", net)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("says", ["float64", "float32", "half"])
def test_half_precision_becomes_single_without_rounding(kind, says, net, tmp_path):
    saved = content(net, dtype=kind if says == "half" else says)
    half = {name: value.to(getattr(torch, kind)) for name, value in net.state_dict().items()}
    torch.save(saved | {"model_state_dict": half}, tmp_path / "x.pt")
    net.load_state_dict(half)  # which rounds them
    assert_holds(tmp_path / "x.pt", net, np.float32)
    # Rounded to half once more, they are the same bits as in the file.
    weight = torch_file.read(tmp_path / "x.pt").variables["params"]["Dense_0"]["kernel"].T
    again = weight.astype(np.float16 if kind == "float16" else ml_dtypes.bfloat16)
    bits = half["model.0.weight"].contiguous().view(torch.int16).numpy()
    np.testing.assert_array_equal(again.view(np.int16), bits)


def test_the_legacy_format(net, tmp_path):
    torch.save(content(net), tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(tmp_path / "x.pt")
    assert_holds(tmp_path / "x.pt", net)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_another_device(zipped, net, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save(content(net), tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    assert b"cuda:0" in (tmp_path / "x.pt").read_bytes()
    assert_holds(tmp_path / "x.pt", net)


@pytest.mark.parametrize("missing", ["absent", "None"])
def test_without_an_optimiser(missing, net, tmp_path):
    saved = content(net)
    optimizer = saved.pop("optimizer_state_dict")
    assert optimizer
    torch.save(saved if missing == "absent" else saved | {"optimizer_state_dict": None}, "x.pt")
    assert_holds("x.pt", net, moments=False)


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def assert_refused(words):
    with pytest.raises(UserError, match=words) as told:
        torch_file.read("x.pt")
    assert str(told.value).startswith("x.pt: ") and "\n" not in str(told.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module(zipped, net):
    del net.optimizer
    with warnings.catch_warnings(action="ignore"):
        torch.save(net, "x.pt", _use_new_zipfile_serialization=zipped)
    assert_refused(f"Net, which could run code.* whole module, {SAVE_ANEW}")


def test_torchscript(net):
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.trace(net, torch.ones(1, 11, dtype=torch.float64)), "x.pt")
    assert_refused(f"is TorchScript, a program, and was not opened; {SAVE_ANEW}")


def test_a_bare_state_dict(net):
    torch.save(net.state_dict(), "x.pt")
    assert_refused(f"is a bare state_dict, .*{SAVE_ANEW}")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.2, 0.9, 0.999])
def test_a_file_that_is_cut_short(zipped, share, net, tmp_path):
    torch.save(content(net), "x.pt", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(whole[: int(share * len(whole))])
    assert_refused(
        "damaged, cut short: copy or export" if zipped else "damaged, or no torch checkpoint"
    )
    (tmp_path / "x.pt").write_bytes(b"")
    assert_refused("is empty")


@pytest.mark.parametrize(
    ("name", "pack"), [("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)]
)
def test_a_compressed_file(name, pack, net, tmp_path):
    torch.save(content(net), "x.pt")
    (tmp_path / "x.pt").write_bytes(pack((tmp_path / "x.pt").read_bytes()))
    assert_refused(f"is compressed with {name} .*: decompress it first")


def test_names_that_only_some_wear_stay():
    state = {"module.model.0.weight": 1, "model.0.bias": 2}
    assert variants._without_wrappers(state) == state
