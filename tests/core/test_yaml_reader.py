"""YAML is read with limits and without surprises."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from privbench.core import UserError
from privbench.core.inputs import read_input
from privbench.core.yaml_reader import read_yaml


def read(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    return read_yaml(path, "study")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[on, off, yes, no, Yes]", ["on", "off", "yes", "no", "Yes"]),
        ("[true, False, null, ~, ]", [True, False, None, None]),
        ("[1:30, 2020-01-01, 1_000]", ["1:30", "2020-01-01", "1_000"]),
        ("[1, -3, 0x10, 0o17, 010]", [1, -3, 16, 15, 10]),
        ("[1e-3, 1., .5, 4E2]", [0.001, 1.0, 0.5, 400.0]),
        ("a: &a {b: 1, c: 2}\nd: {<<: *a, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        ("'1'", "1"),
        ("", None),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object, tmp_path: Path) -> None:
    found = read(tmp_path, text)
    assert found == value
    assert repr(found) == repr(value), "1 is not 1.0"


NAMES = "abcdefgh"
BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in pairwise(NAMES)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "the key 'a' is given twice in line 3"),
        ("[" * 3000, "line 1 is nested deeper than 40 levels"),
        ("{a: " * 3000, "nested deeper than 40 levels"),
        (BOMB, "more than 1,000,000 values, aliases counted"),
        ("a: &a [*a]", "the alias *a stands before its value is complete"),
        ("a: " + "9" * 5000, "a number of 5000 characters"),
        ("a: 1e400", "the number 1e400 is not finite"),
        ("a: .nan", "the number .nan is not finite"),
        ("? [1, 2]\n: 3", "a key is no plain value"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: !!binary x", "could not determine a constructor"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a: \x00", "special characters are not allowed"),
    ],
    ids=range(13),
)
def test_what_is_no_such_file_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"cannot read the study {tmp_path / 'a.yaml'}: ")
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(2000))
    for path, words in (
        (tmp_path / "pipe", "no regular file (a pipe or a device)"),
        (Path("/dev/zero"), "no regular file (a pipe or a device)"),
        (tmp_path, "it is a folder"),
        (tmp_path / "large", "at most 0 are accepted"),
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path / "a\x00b", "null"),
        (tmp_path / "absent", "No such file"),
    ):
        with pytest.raises(UserError) as caught:
            read_input(path, "study", 1000)
        assert words in str(caught.value)
        assert len(str(caught.value)) < 1000
