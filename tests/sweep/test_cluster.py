"""What the Ray launcher says before Ray is asked."""

import socket

import pytest

from privbench.core import UserError
from privbench.sweep.cluster import _require_answer


@pytest.mark.parametrize("address", [None, "auto", "ray://head:10001", "local"])
def test_addresses_of_another_form_are_left_to_ray(address: str | None) -> None:
    _require_answer(address)


def test_an_address_where_nobody_listens_is_refused_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        _require_answer(f"127.0.0.1:{port}")
    with pytest.raises(UserError, match=rf"cannot reach Ray at 127\.0\.0\.1:{port}: ConnectionRefusedError.*is its head node"):
        _require_answer(f"127.0.0.1:{port}")
