"""The notebooks of `results/notebooks`, executed on the committed records and stored with their outputs.

    python -m benchmarks.notebooks                # all of them
    python -m benchmarks.notebooks front matrix   # some

What depends on the clock or on the machine is not stored, so that equal records give equal files.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import papermill

from benchmarks.command import one_line

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "results" / "notebooks"
LARGEST = 300_000
"""Bytes of a stored notebook at most."""
_SECONDS = 600


def executed(path: Path) -> dict[str, Any]:
    """A notebook with the outputs that its cells have now.

    Args:
        path: The notebook; its cells run in its folder, and import this checkout.
    """
    os.environ["PYTHONPATH"] = str(ROOT)
    # A library looks for a widget that it does not need, and would leave a path of this machine in the outputs.
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
    with tempfile.TemporaryDirectory(prefix="privbench-") as folder:
        done = Path(folder) / path.name
        papermill.execute_notebook(
            path, done, cwd=path.parent, progress_bar=False, execution_timeout=_SECONDS, log_output=False
        )
        content: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        cell["metadata"] = {}
        for output in cell.get("outputs", []):
            # Beside a picture the text is Python's, and may name folders of this machine.
            if "image/png" in output.get("data", {}):
                output["data"].pop("text/plain", None)
    content["metadata"] = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    return content


@one_line
def main() -> None:
    """Stores the notebooks that are named, or all."""
    known = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *known], metavar="NAME", help=", ".join(known))
    for name in parser.parse_args().names or known:
        path = NOTEBOOKS / f"{name}.ipynb"
        text = json.dumps(executed(path), indent=1, ensure_ascii=False) + "\n"
        if len(text.encode()) > LARGEST:
            raise SystemExit(f"{name} would have {len(text.encode())} bytes; at most {LARGEST}")
        path.write_text(text, encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {len(text.encode())} bytes")


if __name__ == "__main__":
    main()
