"""What a static site has besides the report: which rows were computed again, and how others hand in a row."""

import re
from pathlib import Path

from privbench.core import UserError
from privbench.core.inputs import LARGEST_FILE, read_input

__all__ = ["submit_page", "verified_cases"]

_HASH = re.compile(r"[0-9a-f]{12}")


def verified_cases(path: Path) -> frozenset[str]:
    """The hashes of a file, one a line; what follows a hash mark is a remark.

    Raises:
        UserError: The file cannot be read, or a line is no hash.
    """
    try:
        lines = read_input(path, "list of verified cases", LARGEST_FILE).decode().splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path} ({error}); give a text file with the hashes of verified cases") from None
    words = [line.partition("#")[0].strip() for line in lines]
    for number, word in enumerate(words, start=1):
        if word and not _HASH.fullmatch(word):
            raise UserError(f"line {number} of {path} is no hash of a case ({word[:40]!r}); accepted: 12 hexadecimal digits")
    return frozenset(word for word in words if word)


def submit_page() -> str:
    """The entry guide as a page."""
    return _SUBMIT


_SUBMIT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>privbench: hand in a row</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 46rem; padding: 0 1rem; }
pre { overflow-x: auto; padding: .6rem; border: 1px solid; border-radius: 4px; }
</style>
</head>
<body>
<p><a href="index.html">Leaderboard</a></p>
<h1>Hand in a row</h1>
<p>A row of your own attack or defense needs three things: the record, the case, and the package that registers your component.
The private images must be a data set that others can get.</p>
<ol>
<li>Publish your component as a package with an entry point and check it.<pre>privbench check NAME</pre></li>
<li>Compute the case.<pre>privbench run --attack NAME --defense mjp --data cifar10 --limit 16 --adversary aware</pre></li>
<li>Compute it again from its folder. It must hold.<pre>privbench verify results/runs/CASE</pre></li>
<li>Open an issue with the form &ldquo;A row for the leaderboard&rdquo;: <code>record.json</code>,
<code>case.yaml</code>, the package, and what the two checks said.</li>
</ol>
<p>A row is <b>reported</b> until a maintainer has computed it again with <code>privbench verify</code>; then it is
<b>verified</b>.</p>
</body>
</html>
"""
