"""Files of records and utility reports: what is not one is refused in a line that says which."""

from pathlib import Path

import pytest

from privbench.core import Record, UserError, UtilityReport


@pytest.mark.parametrize(("document", "kind"), [(Record, "record"), (UtilityReport, "utility report")])
def test_what_is_no_such_document_is_one_line(document: type[Record] | type[UtilityReport], kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"cannot read the {kind} .*absent.json: No such file"):
        document.load(tmp_path / "absent.json")
    path = tmp_path / "other.json"
    for content in ('{"schema_version": 2}', "{", "[]"):
        path.write_text(content)
        with pytest.raises(UserError, match=rf"other.json is not a {kind} of schema 1: ") as caught:
            document.load(path)
        assert "\n" not in str(caught.value)
