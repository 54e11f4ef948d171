"""Which images are attacked."""

import pytest
from PIL import Image

from privbench.core import UserError
from privbench.data import ImageSet, select


def made_up(count: int) -> ImageSet:
    names = tuple(str(index) for index in range(count))
    return ImageSet("made-up", "test", ("a",), (0,) * count, names, lambda _: Image.new("RGB", (8, 8)))


def test_everything_by_default() -> None:
    assert select(made_up(5)) == (0, 1, 2, 3, 4)


def test_limit_takes_the_first() -> None:
    assert select(made_up(8), limit=4, batch_size=2) == (0, 1, 2, 3)


def test_indices_keep_their_order() -> None:
    assert select(made_up(8), indices=[7, 0, 3]) == (7, 0, 3)
    assert select(made_up(8), indices=[7, 0, 3], limit=2, batch_size=2) == (7, 0)


def test_batch_as_large_as_the_data() -> None:
    assert select(made_up(8), batch_size=8) == tuple(range(8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 9}, r"--batch-size 9 is larger than the data: made-up \(test\) has 8 images; use 8 or less"),
        ({"limit": 9}, r"--limit 9 is larger than the data: made-up \(test\) has 8 images; use 8 or less"),
        ({"limit": 5, "batch_size": 2}, r"5 images do not fill batches of 2; use --limit 4 or --limit 6"),
        ({"limit": 7, "batch_size": 3}, r"7 images do not fill batches of 3; use --limit 6$"),
        ({"limit": 2, "batch_size": 3}, r"2 images do not fill batches of 3; use --limit 3$"),
        ({"batch_size": 3}, r"8 images do not fill batches of 3; use --limit 6$"),
        ({"limit": 0}, r"--limit 0 is not accepted: it must be at least 1"),
        ({"limit": -1}, r"--limit -1 is not accepted"),
        ({"batch_size": 0}, r"--batch-size 0 is not accepted"),
        ({"indices": [0, 8]}, r"made-up \(test\) has no image 8; accepted: 0 to 7"),
        ({"indices": [-1]}, r"made-up \(test\) has no image -1"),
        ({"indices": [3, 1, 3]}, r"index 3 is given twice"),
        ({"indices": []}, r"no indices are given; accepted: one or more of 0 to 7"),
        ({"indices": [1, 2], "limit": 3}, r"--limit 3 is larger than the data: 2 indices of made-up \(test\) are given"),
        ({"indices": [1, 2, 3], "batch_size": 2}, r"3 images do not fill batches of 2; use --limit 2$"),
    ],
)
def test_numbers_that_do_not_fit(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        select(made_up(8), **options)  # type: ignore[arg-type]


def test_the_remedy_works() -> None:
    """Whatever limit the message names is then accepted."""
    for count in range(1, 12):
        for batch_size in range(1, count + 1):
            for limit in range(1, count + 1):
                try:
                    chosen = select(made_up(count), limit=limit, batch_size=batch_size)
                except UserError as error:
                    limits = [int(part.split()[0]) for part in str(error).split("--limit ")[1:]]
                    assert limits
                    for remedy in limits:
                        assert len(select(made_up(count), limit=remedy, batch_size=batch_size)) == remedy
                else:
                    assert len(chosen) == limit
