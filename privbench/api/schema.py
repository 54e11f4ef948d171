"""The JSON Schemas of the files that the suite writes and reads."""

import json
from collections.abc import Mapping

from pydantic import BaseModel

from privbench.claims.hypotheses import HypothesesFile
from privbench.core import Calibration, Case, FailedCase, Identification, Record, UtilityReport, unknown_name
from privbench.sweep.study import StudyFile

__all__ = ["STORED_FILES", "json_schema"]

STORED_FILES: Mapping[str, type[BaseModel]] = {
    "record": Record,
    "case": Case,
    "failure": FailedCase,
    "utility": UtilityReport,
    "calibration": Calibration,
    "identification": Identification,
    "study": StudyFile,
    "claims": HypothesesFile,
}
"""Kind of file to what it holds; a case, a study and claims are written as YAML."""


def json_schema(kind: str) -> str:
    """The schema of one kind as indented JSON with a final newline.

    Raises:
        UserError: There is no such kind.
    """
    if kind not in STORED_FILES:
        raise unknown_name("kind of file", kind, STORED_FILES)
    content = {"$schema": "https://json-schema.org/draft/2020-12/schema", **STORED_FILES[kind].model_json_schema()}
    return json.dumps(content, indent=2) + "\n"
