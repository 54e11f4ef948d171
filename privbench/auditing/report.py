"""The report of an audit: what it found, with the files and the page of it."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from privbench.auditing.findings import AuditResult
from privbench.auditing.page import audit_page
from privbench.core import StoreError

__all__ = ["AuditReport"]


@dataclass(frozen=True)
class AuditReport(AuditResult):
    """The result of an audit; a notebook shows its page."""

    def save(self, folder: Path | str) -> list[Path]:
        """Writes `audit.json`, `index.html` and the pictures into a folder, which is made.

        Raises:
            StoreError: The folder cannot be written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files = [folder / "audit.json", folder / "index.html", *(folder / name for name in self.pictures)]
            files[0].write_text(self.to_json(), encoding="utf-8")
            files[1].write_text(audit_page(self), encoding="utf-8")
            for name, pixels in self.pictures.items():
                Image.fromarray(pixels).save(folder / name)
        except OSError as error:
            raise StoreError(f"cannot write to {folder}: {error.strerror or error}; choose another folder") from None
        return files

    def _repr_html_(self) -> str:
        return audit_page(self)
