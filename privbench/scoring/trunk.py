"""The ImageNet trunks under LPIPS: AlexNet's lies in the package; VGG16's and SqueezeNet's come from a cache or a download.

Clusters are often offline: nothing is fetched unless it is asked for, and a fetch that does not answer gives up within
seconds instead of hanging.
"""

import hashlib
import pickle
import queue
import re
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from privbench.core.errors import UserError
from privbench.scoring.embedded_trunk import embedded_trunk
from privbench.scoring.factory import MetricUnavailable

__all__ = ["ARCHITECTURES", "fetch", "load_trunk"]

ARCHITECTURES: Mapping[str, str] = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
"""LPIPS's names of its trunks to torchvision's."""

CONNECT_SECONDS = 15.0
"""How long a server may take to answer at all."""

STALL_SECONDS = 10.0
"""How long a running download may stand still."""

TRANSFER_SECONDS = 600.0
"""How long a download may take altogether."""

_CHUNK = 1 << 20


def load_trunk(net: str, shapes: Mapping[str, torch.Size], *, file: Path | None, download: bool) -> dict[str, Tensor]:
    """The trunk's weights from the first source that is there: a given file, the package, torchvision's cache, a download.

    Args:
        net: `alex`, `vgg` or `squeeze`.
        shapes: The tensors wanted: names within torchvision's `.features`, such as `0.weight`, and their shapes.
        file: A state dict of the whole torchvision model or of its `.features`, by torch.save or in safetensors.
        download: Whether to fetch what neither the package nor the cache holds.

    Returns:
        float32 tensors under the names of `shapes`.

    Raises:
        UserError: `file` is given and is not such a state dict.
        MetricUnavailable: There is no source; the message says what to do.
    """
    if file is not None:
        return _read(file, net, shapes)
    embedded = embedded_trunk(net)
    if embedded is not None:
        return embedded
    url = _url(net)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    remedy = f"give a torchvision state dict with --lpips-weights FILE, or put {cached.name} into torchvision's cache"
    if not cached.is_file():
        absent = f"no weights of torchvision's {ARCHITECTURES[net]} are here"
        if not download:
            raise MetricUnavailable(f"{absent}; {remedy}")
        try:
            fetch(url, cached)
        except (OSError, HTTPException) as error:
            reason = " ".join(str(error).split())
            raise MetricUnavailable(f"{absent} and the download failed ({reason}); {remedy}") from None
    try:
        return _read(cached, net, shapes)
    except UserError:
        raise MetricUnavailable(f"{cached.name} in torchvision's cache is damaged; delete it and {remedy}") from None


def _url(net: str) -> str:
    from torchvision.models import get_model_weights  # slow to import, and needed by LPIPS alone

    return str(get_model_weights(ARCHITECTURES[net])["IMAGENET1K_V1"].url)


def _read(file: Path, net: str, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    accepted = f"accepted: a state dict of torchvision's {ARCHITECTURES[net]} or of its .features (.pth or .safetensors)"
    try:
        if file.exists() and not file.is_file():
            raise UserError(f"the LPIPS weights {file} are no regular file (a folder, a pipe or a device); {accepted}")
        content = load_file(str(file)) if file.suffix == ".safetensors" else _unpickle(file)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no LPIPS weights file {file}; {accepted}") from None
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise UserError(f"cannot read the LPIPS weights {file} ({_first_line(error)}); {accepted}") from None
    except (pickle.UnpicklingError, SafetensorError) as error:
        raise UserError(f"cannot read the LPIPS weights {file} ({_first_line(error)}); {accepted}") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{file} holds a {type(content).__name__} instead of LPIPS weights; {accepted}")
    return {name: _tensor(content, name, shape, f"{file} is not the LPIPS trunk", accepted) for name, shape in shapes.items()}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:120]


def _unpickle(file: Path) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)


def _tensor(content: Mapping[str, Any], name: str, shape: torch.Size, problem: str, accepted: str) -> Tensor:
    value = content.get(f"features.{name}", content.get(name))
    if not isinstance(value, Tensor):
        raise UserError(f"{problem}: it lacks features.{name}; {accepted}")
    if value.shape != shape:
        raise UserError(f"{problem}: features.{name} has shape {tuple(value.shape)}, not {tuple(shape)}; {accepted}")
    if not torch.isfinite(value).all():
        raise UserError(f"{problem}: features.{name} is not finite; {accepted}")
    return value.float()


def fetch(url: str, target: Path) -> None:
    """Downloads a file, checks the hash in its name (`name-<sha256 prefix>.pth`), and only then puts it in place.

    Args:
        url: Where from.
        target: Where to; its folder is made. An interrupted or wrong download leaves nothing there.

    Raises:
        OSError: No answer, too slow, refused, or the content is not what the name says.
        http.client.HTTPException: The server breaks the protocol.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _open(url) as response, tempfile.TemporaryDirectory(dir=target.parent) as folder:
        partial = Path(folder) / target.name
        with partial.open("wb") as file:
            digest = _copy(response, file)
        promised = re.search(r"-([0-9a-f]{8,})\.", target.name)
        if promised and not digest.startswith(promised[1]):
            raise OSError(f"the content does not have the hash {promised[1]}")
        partial.replace(target)


def _open(url: str) -> IO[bytes]:
    answers: queue.SimpleQueue[IO[bytes] | Exception] = queue.SimpleQueue()
    given_up = threading.Event()

    def ask() -> None:
        try:
            response = urllib.request.urlopen(url, timeout=STALL_SECONDS)  # noqa: S310 (torchvision's own address)
        except (OSError, HTTPException) as error:
            answers.put(error)
            return
        if given_up.is_set():
            response.close()
        else:
            answers.put(response)

    # The time limit of a socket counts per address and not at all for the name's look-up, so the wait is bounded from outside.
    threading.Thread(target=ask, daemon=True).start()
    with suppress(queue.Empty):
        answer = answers.get(timeout=CONNECT_SECONDS)
        if isinstance(answer, Exception):
            raise answer
        return answer
    given_up.set()
    raise TimeoutError(f"no answer within {CONNECT_SECONDS:g} s")


def _copy(source: IO[bytes], target: IO[bytes]) -> str:
    digest = hashlib.sha256()
    deadline = time.monotonic() + TRANSFER_SECONDS
    while chunk := source.read(_CHUNK):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not complete within {TRANSFER_SECONDS:g} s")
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()
