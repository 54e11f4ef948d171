"""The device that a user names, or one line that says which there are."""

import pytest
import torch

from privbench.computing.machine import cpu_threads, resolve_device, resolve_devices
from privbench.core import UserError


def test_devices_that_are_here() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("text", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "meta"])
def test_unknown_devices(text: str) -> None:
    with pytest.raises(UserError, match="accepted: auto, cpu, cuda"):
        resolve_device(text)


def test_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"'cuda' is not there \(0 CUDA devices found\); use --device cpu"):
        resolve_device("cuda")


def test_cuda_devices_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert resolve_device("auto") == torch.device("cuda")
    with pytest.raises(UserError, match="2 CUDA devices found"):
        resolve_device("cuda:2")


def test_a_run_spreads_over_all_cuda_devices_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [torch.device("cuda:0"), torch.device("cuda:1")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_devices("auto") == resolve_devices("cuda") == both
    assert [resolve_devices(f"cuda:{index}") for index in (0, 1)] == [[device] for device in both]
    assert resolve_devices("cpu") == [torch.device("cpu")]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_devices("auto") == [torch.device("cuda")]


@pytest.mark.parametrize(("wish", "image_size", "expected"), [(None, 32, 1), (None, 224, 3), (2, 32, 2), (2, 224, 2)])
def test_small_inputs_get_one_thread_and_the_number_is_put_back(wish: int | None, image_size: int, expected: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with cpu_threads(wish, image_size):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
