"""Weights that are here, that can be fetched, and what is said when they cannot be had."""

import pickle
import socket
import threading
import time

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import get_model

from dfkde import load_backbone
from dfkde.backbones.presence import TIMM, TORCHVISION, WeightsError, reachable


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network and empty caches, whatever the machine."""

    def fail(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("socket.create_connection", fail)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    return tmp_path


def test_torchvision_offline_names_url_folder_and_way_on(offline):
    started = time.perf_counter()
    with pytest.raises(WeightsError) as error:
        load_backbone(TORCHVISION, arguments={"architecture": "resnet50"}, weights="IMAGENET1K_V1")
    assert time.perf_counter() - started < 2
    message = str(error.value)
    assert "https://download.pytorch.org/models/resnet50-0676ba61.pth" in message
    assert str(offline / "hub" / "checkpoints") in message
    assert "backbone=efficientnet_lite0" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("architecture", "weights", "file"),
    [
        ("resnet18", "IMAGENET1K_V1", "resnet18-f37072fd.pth"),
        ("resnet50", "IMAGENET1K_V2", "resnet50-11ad3fa6.pth"),
    ],
)
def test_torchvision_takes_the_file_from_the_folder(offline, architecture, weights, file):
    folder = offline / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    source = get_model(architecture, weights=None)
    # The hub checks the name's digest only when it downloads.
    torch.save(source.state_dict(), folder / file)
    module = load_backbone(TORCHVISION, arguments={"architecture": architecture}, weights=weights)
    assert torch.equal(module.conv1.weight, source.conv1.weight)
    assert torch.equal(module.layer4[1].conv2.weight, source.layer4[1].conv2.weight)


def test_timm_takes_the_tags_weights_from_the_hubs_cache(offline):
    """As the hub lays them out: a snapshot of a commit, and a reference that names it."""
    torch.manual_seed(0)
    source = timm.create_model("resnet18", pretrained=False)
    repository = offline / "hub_cache" / "models--timm--resnet18.a1_in1k"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_file(source.state_dict(), snapshot / "model.safetensors")
    for architecture in ("resnet18.a1_in1k", "resnet18"):  # which is the default tag
        module = load_backbone(TIMM, arguments={"architecture": architecture}, weights="pretrained")
        assert torch.equal(module.conv1.weight, source.conv1.weight)
        assert torch.equal(module.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    with pytest.raises(WeightsError, match=r"models--timm--resnet18\.tv_in1k"):
        load_backbone(TIMM, arguments={"architecture": "resnet18.tv_in1k"}, weights="pretrained")


def test_timm_looks_where_torch_keeps_what_has_no_repository(offline):
    arguments = {"architecture": "legacy_seresnet18.in1k"}
    folder = offline / "hub" / "checkpoints"
    with pytest.raises(
        WeightsError, match=r"seresnet18-4bb0ce65\.pth cannot .* put that file into"
    ):
        load_backbone(TIMM, arguments=arguments, weights="pretrained")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    source = timm.create_model("legacy_seresnet18", pretrained=False)
    torch.save(source.state_dict(), folder / "seresnet18-4bb0ce65.pth")
    module = load_backbone(TIMM, arguments=arguments, weights="pretrained")
    name = next(iter(module.state_dict()))
    assert torch.equal(module.state_dict()[name], source.state_dict()[name])


def test_timm_offline_names_url_and_ways_on(offline):
    arguments = {"architecture": "resnet18.a1_in1k", "img_size": None}
    with pytest.raises(WeightsError) as error:
        load_backbone(TIMM, arguments=arguments, weights="pretrained")
    message = str(error.value)
    assert "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors" in message
    assert "backbone.weights=PATH" in message
    assert "backbone=efficientnet_lite0" in message


def test_a_network_that_swallows_packets_is_found_out_in_time(monkeypatch):
    over = threading.Event()

    def swallow(*_, **__):
        over.wait(30)
        raise TimeoutError

    monkeypatch.setattr("socket.create_connection", swallow)
    started = time.perf_counter()
    assert not reachable("https://download.pytorch.org/models/resnet50-0676ba61.pth")
    elapsed = time.perf_counter() - started
    over.set()
    assert elapsed < 2


@pytest.mark.parametrize(
    ("factory", "architecture", "weights"),
    [
        (TORCHVISION, "alexnet", "IMAGENET1K_V1"),  # none of the checkpoints that are listed
        (TIMM, "resnet18.a1_in1k", "pretrained"),
        (TIMM, "legacy_seresnet18.in1k", "pretrained"),
    ],
)
def test_weights_are_not_waited_for_where_nothing_is_reached(
    offline, monkeypatch, factory, architecture, weights
):
    """Also where a download that broke off has left a folder."""
    (offline / "hub_cache" / "models--timm--resnet18.a1_in1k" / "refs").mkdir(parents=True)
    monkeypatch.setattr("dfkde.backbones.presence.reachable", lambda url: False)
    for name in ("torchvision.get_model", "timm.timm.create_model"):
        monkeypatch.setattr(f"dfkde.backbones.{name}", None)  # which would wait
    with pytest.raises(WeightsError, match="cannot be fetched"):
        load_backbone(factory, arguments={"architecture": architecture}, weights=weights)


@pytest.fixture
def server():
    """A server that takes connections and never answers; its address without a scheme."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.usefixtures("no_proxies")
def test_reachable_is_what_takes_connections(server):
    """Not what answers well: a server may refuse the question for the head, a proxy be slow."""
    assert reachable(f"http://{server}/weights.pth")
    assert reachable(f"https://{server}/weights.pth")
    assert not reachable("http://127.0.0.1:9/weights.pth")
    assert not reachable("http://127.0.0.1:nine/weights.pth")


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize("written", ["http://{}", "{}"])
def test_a_proxy_is_asked_in_place_of_the_server(server, monkeypatch, written):
    monkeypatch.setenv("https_proxy", written.format(server))
    assert reachable("https://host.invalid/weights.pth")
    assert not reachable("http://host.invalid/weights.pth")
    monkeypatch.setenv("no_proxy", "host.invalid")
    assert not reachable("https://host.invalid/weights.pth")


def test_the_error_goes_between_processes(offline):
    with pytest.raises(WeightsError) as error:
        load_backbone(TORCHVISION, arguments={"architecture": "resnet50"}, weights="IMAGENET1K_V1")
    again = pickle.loads(pickle.dumps(error.value))
    assert (type(again), str(again), again.url) == (
        WeightsError,
        str(error.value),
        error.value.url,
    )
