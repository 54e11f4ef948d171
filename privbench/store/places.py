"""From what a user calls a place of results, or one case, to the store that it is in."""

from pathlib import Path, PurePosixPath

from privbench.core.errors import UserError
from privbench.store.base import Store
from privbench.store.layout import CASE, FAILURE, MEMBERS, RECORD, WORK
from privbench.store.local import FolderStore
from privbench.store.url import UrlStore

__all__ = ["case_names", "locate_case", "store_at"]


def store_at(place: str | Path | Store, scratch: Path | None = None) -> Store:
    """The store behind a path or URL; nothing is opened.

    Args:
        place: A path, a URL (`s3://`, `gs://`, `sftp://`, `file://`, ...), or a store, which is returned as it is.
        scratch: Working folder of a URL; None: one in the user's cache.
    """
    if not isinstance(place, str | Path):
        return place
    if "://" in str(place):
        return UrlStore(str(place), scratch)
    return FolderStore(Path(place))


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
        text: A case's folder, its URL, or the first letters of its hash.
        store: Where to look for a hash, subfolders included.

    Raises:
        UserError: None or several are meant.
    """
    if "://" in text:
        above, _, name = text.rstrip("/").rpartition("/")
        return UrlStore(above), name
    if _is_case(Path(text)):
        folder = Path(text).absolute() if Path(text).name in {"", ".."} else Path(text)
        return FolderStore(folder.parent), folder.name
    found = sorted(name for name in case_names(store) if text and name.rpartition("--")[2].startswith(text))
    if not found:
        raise UserError(f"no case '{text}' in {store}; accepted: a case's folder, or the first letters of its hash")
    if len(found) > 1:
        names = ", ".join(name.rpartition("/")[2] for name in found[:3])
        raise UserError(f"'{text}' means {len(found)} cases in {store} ({names}); give more letters of the hash")
    return store, found[0]


def _is_case(folder: Path) -> bool:
    return any((folder / name).exists() for name in (RECORD, FAILURE, CASE, WORK))
