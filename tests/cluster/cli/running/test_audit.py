"""What `clusterctl audit` prints."""

from __future__ import annotations

from cluster.cli.running.audit import told


def test_a_change_and_what_it_changed() -> None:
    lines = told({
        "id": 7, "at": 0.0, "who": "boss", "from": "127.0.0.1", "method": "POST", "path": "/v1/cluster/scale",
        "status": 202, "seal": "x", "changed": [{"what": "instances of default", "before": 1, "after": None}],
    })  # fmt: skip
    assert lines[0].startswith("7  19") and lines[0].endswith("boss from 127.0.0.1: POST /v1/cluster/scale 202")
    assert lines[1].strip() == "instances of default: 1 -> null"


def test_refusals_that_are_alike_are_one_line() -> None:
    (line,) = told({"id": 8, "at": 0.0, "seal": "x", "from": "::1", "method": "GET", "path": "/v1/models",
                    "status": 401, "reason": "no key", "count": 40})  # fmt: skip
    assert line.endswith("refused from ::1: GET /v1/models 401 (no key) x 40")
    (others,) = told({"id": 9, "at": 0.0, "seal": "x", "reason": "others", "count": 4})
    assert others.endswith("refused:  (others) x 4")
