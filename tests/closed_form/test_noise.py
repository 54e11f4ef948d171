"""The noise on an update shows in the classifier's gradient, and what is noise alone can be told."""

import pytest
import torch

from privbench.closed_form import noise_std, rows_without_signal


@pytest.mark.parametrize("std", [0.0, 1e-4, 0.1])
@pytest.mark.parametrize("rank", [1, 4])
def test_the_deviation_of_the_noise_is_read_off_what_lies_behind_the_rank(
    std: float, rank: int, generator: torch.Generator
) -> None:
    signal = torch.randn(10, rank, generator=generator) @ torch.randn(rank, 128, generator=generator)
    noisy = signal + std * torch.randn(10, 128, generator=generator)
    assert noise_std(noisy, rank) == pytest.approx(std, rel=0.15, abs=1e-6)


def test_where_nothing_lies_behind_the_rank_no_noise_is_seen(generator: torch.Generator) -> None:
    assert noise_std(torch.randn(10, 128, generator=generator), 10) == 0


def test_rows_of_noise_are_told_from_rows_with_signal(generator: torch.Generator) -> None:
    signal = torch.arange(2000) % 2 == 1
    rows = 0.01 * torch.randn(2000, 128, generator=generator) + 0.02 * signal[:, None]
    assert (rows_without_signal(rows, 0.01) != ~signal).sum() <= 2
    exact = torch.where(signal[:, None], rows, 0.0)
    assert torch.equal(rows_without_signal(exact, 0.0), ~signal)
