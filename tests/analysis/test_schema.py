"""The published JSON Schemas are those of the code, and what lies in the results validates against them."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from privbench.api.schema import STORED_FILES, json_schema
from privbench.core import Record, UserError
from privbench.store.places import local_folder

RESULTS = Path(__file__).parents[2] / "results"
RECORDS = sorted(local_folder(RESULTS / "reference.jsonl.gz").glob("*/record.json"))


@pytest.mark.parametrize("kind", STORED_FILES)
def test_the_published_schema_is_that_of_the_code(kind: str) -> None:
    assert (RESULTS / "schemas" / f"{kind}.schema.json").read_text(encoding="utf-8") == json_schema(kind)
    jsonschema.Draft202012Validator.check_schema(json.loads(json_schema(kind)))


def test_every_reference_record_and_case_validates() -> None:
    record, case = (jsonschema.Draft202012Validator(json.loads(json_schema(kind))) for kind in ("record", "case"))
    assert RECORDS
    for path in RECORDS:
        record.validate(json.loads(path.read_bytes()))
        case.validate(yaml.safe_load(Record.load(path).case.to_yaml()))


def test_a_changed_record_does_not_validate() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(json_schema("record")))
    content = json.loads(RECORDS[0].read_bytes())
    changes: tuple[dict[str, object], ...] = ({"schema_version": 2}, {"images": []}, {"unknown": 1}, {"case_id": 3})
    for change in changes:
        assert not validator.is_valid({**content, **change}), change


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_another_version_is_refused_by_name(tmp_path: Path, version: object) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({**json.loads(RECORDS[0].read_bytes()), "schema_version": version}), encoding="utf-8")
    with pytest.raises(UserError, match=r"is not a record of schema 1: schema_version: .*given"):
        Record.load(path)
