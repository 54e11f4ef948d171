"""From what a user calls a place of results, or one case, to the store that it is in."""

import atexit
import os
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path, PurePosixPath

from privbench.core.errors import UserError
from privbench.store.base import Store
from privbench.store.layout import CASE, FAILURE, MEMBERS, RECORD, WORK
from privbench.store.local import FolderStore
from privbench.store.pack import SUFFIX, PackStore, split_address
from privbench.store.url import UrlStore

__all__ = ["case_names", "local_folder", "locate_case", "place_of", "require_records", "store_at"]


def store_at(place: str | Path | Store, scratch: Path | None = None) -> Store:
    """The store behind a path or URL; nothing is opened.

    Args:
        place: The path of a folder or of a pack (`.jsonl.gz`), a URL (`s3://`, `gs://`, `sftp://`, `file://`, ...), or a
            store, which is returned as it is.
        scratch: Working folder of a URL; None: one in the user's cache.

    Raises:
        UserError: A working folder is given for a folder.
    """
    if not isinstance(place, str | Path):
        return place
    if "://" in str(place):
        return UrlStore(str(place), None if scratch is None else scratch.resolve())
    if scratch is not None:
        raise UserError(f"--scratch is of a URL; --output {place} is a folder")
    packed = split_address(str(place))
    return FolderStore(Path(place)) if packed is None else PackStore(packed[0])


def require_records(store: Store) -> None:
    """Refuses a place without a finished case; of a folder it looks no further than the first one.

    Raises:
        UserError: There is no such folder, URL or pack, or no record in it.
    """
    if isinstance(store, FolderStore):
        if not store.path.is_dir():
            raise UserError(f"there is no folder {store}; give one that `privbench run --output` wrote to")
        if any(RECORD in [*names, *folders] or _has_pack(names) for _, folders, names in os.walk(store.path)):
            return
    elif any(PurePosixPath(name).name == RECORD for name in store.list()):
        return
    raise UserError(f"there is no {RECORD} below {store}; give a folder that `privbench run --output` wrote to")


def _has_pack(names: list[str]) -> bool:
    return any(name.endswith(SUFFIX) for name in names)


_OPENED = ExitStack()
atexit.register(_OPENED.close)


@lru_cache(maxsize=64)
def local_folder(place: str | Path) -> Path:
    """A place of results as a folder for as long as the process lives, for notebooks: the folder itself, or a copy of it.

    Raises:
        UserError: It cannot be read.
    """
    return _OPENED.enter_context(store_at(place).open())


def case_names(store: Store) -> set[str]:
    """The folders of all cases of a store, finished or not; the parts of ensembles are no cases of their own.

    Raises:
        UserError: The store cannot be read.
    """
    return {case for name in store.list() if (case := _case_of(name)) is not None}


def _case_of(name: str) -> str | None:
    """The case to which a file belongs; None of files beside cases."""
    parts = PurePosixPath(name).parts
    for inner in (MEMBERS, WORK):
        if inner in parts:
            return "/".join(parts[: parts.index(inner)]) or None
    return "/".join(parts[:-1]) if parts[-1] in {RECORD, FAILURE, CASE} and len(parts) > 1 else None


def locate_case(text: str, store: Store) -> tuple[Store, str]:
    """The store and the name of one case.

    Args:
        text: A case's folder, its URL, its place in a pack (`PACK/CASE`), or the first letters of its hash.
        store: Where to look for a hash, subfolders included.

    Raises:
        UserError: None or several are meant.
    """
    if "://" in text or split_address(text) is not None or _is_case(Path(text)):
        return place_of(text)
    found = sorted(name for name in case_names(store) if text and name.rpartition("--")[2].startswith(text))
    if not found:
        raise UserError(f"no case '{text}' in {store}; accepted: a case's folder, or the first letters of its hash")
    if len(found) > 1:
        names = ", ".join(name.rpartition("/")[2] for name in found[:3])
        raise UserError(f"'{text}' means {len(found)} cases in {store} ({names}); give more letters of the hash")
    return store, found[0]


def place_of(address: str) -> tuple[Store, str]:
    """The store and the name of what lies at the path of a folder, at a URL, or at a place in a pack; nothing is looked up."""
    if "://" in address:
        above, _, name = address.rstrip("/").rpartition("/")
        return UrlStore(above), name
    if (packed := split_address(address)) is not None:
        return PackStore(packed[0]), packed[1]
    folder = Path(address).absolute() if Path(address).name in {"", ".."} else Path(address)
    return FolderStore(folder.parent), folder.name


def _is_case(folder: Path) -> bool:
    return any((folder / name).exists() for name in (RECORD, FAILURE, CASE, WORK))
