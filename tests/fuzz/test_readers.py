"""Whatever a file or an option holds, its reader gives a value or one line that says what is wrong.

A fixed set of inputs in every run, and thousands of new ones by night: text, bytes, and sound files of which a few bytes were
changed, cut off or put in twice.
"""

import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from privbench.core import Record, UserError, parse_spec, parse_specs
from privbench.core.yaml_reader import read_yaml
from privbench.data.npz import open_npz
from privbench.data.pictures import read_pictures
from privbench.resolving.resolve import parse_indices
from privbench.store.pack import PackStore
from privbench.store.places import local_folder

RESULTS = Path(__file__).parents[2] / "results"
FEW, MANY = 40, 2000


@dataclass(frozen=True)
class Reader:
    """One reader and what it is fed.

    Attributes:
        inputs: What it is fed.
        read: Reads an input; a folder is there for files.
    """

    inputs: st.SearchStrategy[Any]
    read: Callable[[Any, Path], object]


@st.composite
def mutated(draw: st.DrawFn, sound: Callable[[], bytes]) -> bytes:
    """A sound file with up to four changes: a byte, a cut, a part twice, a part of noise."""
    content = bytearray(sound())
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(["byte", "cut", "twice", "noise"]))
        if kind == "byte" and content:
            content[place] = draw(st.integers(0, 255))
        elif kind == "cut":
            del content[place : place + draw(st.integers(1, 64))]
        elif kind == "twice":
            content[place:place] = content[place : place + draw(st.integers(1, 64))]
        else:
            content[place:place] = draw(st.binary(max_size=16))
    return bytes(content)


def file_of(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    """A reader of files as one of bytes."""

    def reading(content: bytes, folder: Path) -> object:
        path = folder / name
        path.write_bytes(content)
        return read(path)

    return reading


@lru_cache(maxsize=1)
def record() -> bytes:
    """The record of two images, so that a change is likely to hit something."""
    content = json.loads(min(local_folder(RESULTS / "reference.jsonl.gz").glob("*/record.json")).read_bytes())
    images = content["images"][:2]
    means = {name: sum(image["scores"][name] for image in images) / 2 for name in content["summary"]}
    summary = {name: {"mean": mean, "low": mean, "high": mean, "n": 2} for name, mean in means.items()}
    return json.dumps({**content, "images": images, "summary": summary, "summary_saved": {}}).encode()


@lru_cache(maxsize=1)
def study() -> bytes:
    return (RESULTS / "studies" / "claims.yaml").read_bytes()


@lru_cache(maxsize=1)
def pack() -> bytes:
    files = ({"name": "a/record.json", "json": {"n": 1}}, {"name": "a/x.png", "base64": "AAAA"}, {"name": "t.csv", "text": "1"})
    return gzip.compress("".join(json.dumps(line) + "\n" for line in ({"privbench_pack": 1, "files": 3}, *files)).encode())


@lru_cache(maxsize=1)
def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.arange(2))
    return buffer.getvalue()


@lru_cache(maxsize=1)
def safetensors() -> bytes:
    return save({"images": torch.zeros(2, 3, 8, 8)})


def whole_yaml(path: Path) -> object:
    return read_yaml(path, "study")


def whole_npz(path: Path) -> object:
    images = open_npz(path)
    return images.load([0], 8)


def whole_pack(path: Path) -> object:
    store = PackStore(path)
    return [store.read(name) for name in store.list()[:3]]


def indices(text: str, _: Path) -> object:
    found = parse_indices(text)
    assert all(index >= 0 for index in found)
    return found


READERS = {
    "yaml, text": Reader(st.text(max_size=200).map(str.encode), file_of("a.yaml", whole_yaml)),
    "yaml, bytes": Reader(st.binary(max_size=200), file_of("a.yaml", whole_yaml)),
    "yaml, changed": Reader(mutated(study), file_of("a.yaml", whole_yaml)),
    "spec": Reader(st.text("abz019:=,+-._ \t'\"[]{}\x00\u00e9", max_size=60), lambda text, _: parse_spec(text)),
    "specs": Reader(st.text(max_size=60), lambda text, _: parse_specs(text)),
    "indices": Reader(st.text("0123456789,-[]() +_\u0663", max_size=24), indices),
    "record, bytes": Reader(st.binary(max_size=200), lambda content, _: Record.parse(content, "a.json")),
    "record, changed": Reader(mutated(record), lambda content, _: Record.parse(content, "a.json")),
    "pack, changed": Reader(mutated(pack), file_of("a.jsonl.gz", whole_pack)),
    "npz, changed": Reader(mutated(npz), file_of("a.npz", whole_npz)),
    "array, changed": Reader(mutated(npz), file_of("a.npz", read_pictures)),
    "safetensors, changed": Reader(mutated(safetensors), file_of("a.safetensors", read_pictures)),
}


def fed(reader: Reader, folder: Path, *, examples: int, fixed: bool) -> None:
    """Feeds a reader; anything but a value or a `UserError` of one line fails."""

    @settings(
        max_examples=examples,
        derandomize=fixed,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(reader.inputs)
    def check(content: Any) -> None:
        said = "a value"
        try:
            reader.read(content, folder)
        except UserError as error:
            said = str(error)
        assert len(said.splitlines()) == 1

    check()


@pytest.mark.parametrize("name", READERS)
def test_a_fixed_set_of_inputs_is_read_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    fed(READERS[name], tmp_path, examples=FEW, fixed=True)


@pytest.mark.nightly
@pytest.mark.parametrize("name", READERS)
def test_new_inputs_are_read_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    fed(READERS[name], tmp_path, examples=MANY, fixed=False)
