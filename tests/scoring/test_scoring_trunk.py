"""Where the trunk of LPIPS comes from: a file, the cache, a download; and what is said when there is none."""

import hashlib
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from privbench.core import UserError
from privbench.scoring import MetricSuite, metric_suite, trunk

CACHED = "squeezenet1_1-b8a52dc0.pth"


def _suite(file: Path | None = None, *, download: bool = False, net: str = "squeeze") -> MetricSuite:
    return metric_suite(patch_size=None, lpips_net=net, lpips_weights=file, download=download)


def _value(suite: MetricSuite) -> float:
    metric = next(metric for metric in suite.metrics if metric.name == "lpips")
    return metric.compute(torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)).item()


def test_the_whole_model_and_its_features_alone_are_the_same_trunk(random_trunk: Path, tmp_path: Path) -> None:
    whole = torch.load(random_trunk, weights_only=True)
    features = {name: value for name, value in whole.items() if name.startswith("features.")}
    bare = {name.removeprefix("features."): value for name, value in features.items()}
    torch.save(features, tmp_path / "features.pth")
    torch.save(bare, tmp_path / "bare.pth")
    save_file(bare, tmp_path / "bare.safetensors")
    expected = _value(_suite(random_trunk))
    assert expected > 0
    for name in ("features.pth", "bare.pth", "bare.safetensors"):
        assert _value(_suite(tmp_path / name)) == expected


def test_the_weights_in_the_file_are_the_ones_used(random_trunk: Path, tmp_path: Path) -> None:
    content = torch.load(random_trunk, weights_only=True)
    content["features.12.expand3x3.weight"] = content["features.12.expand3x3.weight"].flip(0)
    torch.save(content, tmp_path / "other.pth")
    assert _value(_suite(tmp_path / "other.pth")) != _value(_suite(random_trunk))


def test_wrong_files_are_refused_in_one_line(random_trunk: Path, tmp_path: Path) -> None:
    content = torch.load(random_trunk, weights_only=True)
    first = "features.0.weight"
    (tmp_path / "text.pth").write_text("not weights\n" * 20)
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("not weights")
    (tmp_path / "cut.pth").write_bytes(random_trunk.read_bytes()[:1000])
    (tmp_path / "folder.pth").mkdir()
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"model": content}, tmp_path / "wrapped.pth")
    torch.save({name: value for name, value in content.items() if name != first}, tmp_path / "lacking.pth")
    torch.save({**content, first: torch.zeros(64, 3, 11, 11)}, tmp_path / "alexnet.pth")
    torch.save({**content, first: content[first] * float("nan")}, tmp_path / "nan.pth")
    cases = {
        "absent.pth": "there is no LPIPS weights file",
        "text.pth": "cannot read",
        "empty.pth": "cannot read",
        "text.safetensors": "cannot read",
        "cut.pth": "cannot read",
        "folder.pth": "are no regular file",
        "list.pth": "holds a list",
        "wrapped.pth": "lacks features.0.weight",
        "lacking.pth": "lacks features.0.weight",
        "alexnet.pth": r"has shape \(64, 3, 11, 11\), not \(64, 3, 3, 3\)",
        "nan.pth": "not finite",
    }
    for name, words in cases.items():
        with pytest.raises(UserError, match=words) as error:
            _suite(tmp_path / name)
        assert name in str(error.value)
        assert "accepted: a state dict of torchvision's squeezenet1_1" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_file_that_would_run_code_is_not_run(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "ran"),)  # type: ignore[return-value]

    torch.save({"features.0.weight": Harmful()}, tmp_path / "harmful.pth")
    with pytest.raises(UserError, match="cannot read"):
        _suite(tmp_path / "harmful.pth")
    assert not (tmp_path / "ran").exists()


def test_a_given_file_must_be_right_even_where_the_cache_is(random_trunk: Path, no_weights: Path, tmp_path: Path) -> None:
    no_weights.mkdir(parents=True)
    (no_weights / CACHED).write_bytes(random_trunk.read_bytes())
    with pytest.raises(UserError):
        _suite(tmp_path / "absent.pth")


def test_the_cache_is_used_where_no_file_is_given(random_trunk: Path, no_weights: Path) -> None:
    no_weights.mkdir(parents=True)
    (no_weights / CACHED).write_bytes(random_trunk.read_bytes())
    assert _value(_suite()) == _value(_suite(random_trunk))


def test_a_damaged_cache_is_a_reason_and_not_an_error(no_weights: Path) -> None:
    no_weights.mkdir(parents=True)
    (no_weights / CACHED).write_bytes(b"half a file")
    assert f"{CACHED} in torchvision's cache is damaged; delete it" in _suite().unavailable["lpips"]


@pytest.mark.parametrize("net", ["vgg", "squeeze"])
def test_without_weights_the_score_is_missing_with_what_to_do(net: str, no_weights: Path) -> None:
    suite = _suite(net=net)
    assert "lpips" not in suite.names
    assert "--lpips-weights FILE" in suite.unavailable["lpips"]
    assert str(no_weights) not in suite.unavailable["lpips"], "the reason goes into records: no one's folders in there"
    assert not no_weights.exists(), "nothing is fetched or made unless it is asked for"


@pytest.fixture
def server(random_trunk: Path) -> Iterator[str]:
    """A local server that has the trunk under `/good...` and something else under every other name."""
    content = random_trunk.read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "absent" in self.path:
                self.send_error(404)
                return
            body = content if "good" in self.path else b"something else"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def _serve_from(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunk, "_url", lambda _: url)


def test_a_download_fills_the_cache_and_the_score(
    server: str, random_trunk: Path, no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"good-{hashlib.sha256(random_trunk.read_bytes()).hexdigest()[:8]}.pth"
    _serve_from(f"{server}/{name}", monkeypatch)
    assert _value(_suite(download=True)) == _value(_suite(random_trunk))
    assert [path.name for path in no_weights.iterdir()] == [name]
    assert _value(_suite(download=False)) > 0, "the second time it comes from the cache"


# torch.hub leaves the connection of a download that fails to the garbage collector, of which Python 3.13 complains.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("name", "words"), [("absent-01234567.pth", "404"), ("wrong-01234567.pth", "hash 01234567")])
def test_a_failing_download_is_a_reason_and_leaves_nothing(
    name: str, words: str, server: str, no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve_from(f"{server}/{name}", monkeypatch)
    reason = _suite(download=True).unavailable["lpips"]
    assert "the download failed" in reason
    assert words in reason
    assert "--lpips-weights FILE" in reason
    assert "\n" not in reason
    assert list(no_weights.iterdir()) == []


def test_a_server_that_never_answers_does_not_hold_up_a_run(no_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunk, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(trunk, "STALL_SECONDS", 1.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        _serve_from(f"http://127.0.0.1:{silent.getsockname()[1]}/trunk-01234567.pth", monkeypatch)
        start = time.monotonic()
        reason = _suite(download=True).unavailable["lpips"]
        assert time.monotonic() - start < 1.4
    assert "no answer within 0.3 s" in reason


def test_a_download_that_stands_still_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunk, "STALL_SECONDS", 0.3)

    def answer_and_stall() -> None:
        connection, _ = listener.accept()
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
        done.wait(5)
        connection.close()

    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_and_stall, daemon=True)
        thread.start()
        with pytest.raises(OSError, match="timed out"):
            trunk.fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/a.pth", tmp_path / "cache" / "a.pth")
        done.set()
        thread.join()
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_download_that_crawls_is_given_up(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunk, "TRANSFER_SECONDS", -1.0)
    with pytest.raises(TimeoutError, match="not complete"):
        trunk.fetch(f"{server}/good.pth", tmp_path / "good.pth")
    assert list(tmp_path.iterdir()) == []
