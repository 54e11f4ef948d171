"""Settings of the machine side."""

import torch

from privbench.core import ComputeOptions


def test_the_number_of_threads_is_held_for_a_block_and_put_back() -> None:
    before = torch.get_num_threads()
    with ComputeOptions(threads=before + 1).cpu_threads():
        assert torch.get_num_threads() == before + 1
        with ComputeOptions().cpu_threads():
            assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_clients_are_computed_on_the_first_device() -> None:
    assert ComputeOptions(devices=(torch.device("cuda:1"), torch.device("cuda:0"))).device == torch.device("cuda:1")
