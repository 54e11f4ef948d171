"""A case found by its hash alone, in whatever folder below this one it was written to."""

import re
from collections.abc import Iterator
from pathlib import Path

from privbench.core.errors import UserError
from privbench.store.base import Store
from privbench.store.places import case_names

__all__ = ["address_of"]

_DEPTH = 5
"""So many folders down a case is looked for."""


def address_of(text: str, store: Store) -> str:
    """What the user means: a hash that is not in the store is looked for in every folder below this one.

    Args:
        text: A case's folder, URL or place in a pack, which are returned as they are, or the first letters of its hash.
        store: Where to look for a hash first.

    Raises:
        UserError: It is in none, or in several.
    """
    is_hash = re.fullmatch(r"[0-9a-f]{1,12}", text) is not None and not Path(text).exists()
    if not is_hash or any(name.rpartition("--")[2].startswith(text) for name in _names(store)):
        return text
    here = Path()
    found = [path for path in _folders(here, _DEPTH) if path.name.rpartition("--")[2].startswith(text) and "--" in path.name]
    if not found:
        raise UserError(
            f"no case '{text}' in {store}, nor in any folder below {here.absolute()}; accepted: a case's folder, or the first "
            "letters of its hash, with --output where its results lie elsewhere"
        )
    if len(found) > 1:
        raise UserError(f"'{text}' means {len(found)} cases ({', '.join(map(str, found[:3]))}); give more letters, or a folder")
    return str(found[0])


def _names(store: Store) -> set[str]:
    try:
        return case_names(store)
    except UserError:
        # There is no such folder yet: the case may lie in another.
        return set()


def _folders(place: Path, depth: int) -> Iterator[Path]:
    """Folders below a place, none of them hidden, without what lies in a case's folder."""
    try:
        below = sorted(path for path in place.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return
    for path in below:
        if path.name.startswith(".") or path.name in {"node_modules", "site-packages"}:
            continue
        yield path
        if depth > 1 and "--" not in path.name:
            yield from _folders(path, depth - 1)
