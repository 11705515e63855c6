"""The golden vectors that Rust and Python share: tests/vectors/."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidecar import OutBlob

VECTORS = json.loads((Path(__file__).resolve().parents[2] / "tests" / "vectors" / "vectors.json").read_text())
LIBRARIES = ["stdlib", "auto"]

ECHO = "def handle(p):\n    return p\n"


def content(told):
    return told["text"].encode() if "text" in told else bytes.fromhex(told["hex"])


@pytest.mark.parametrize("library", LIBRARIES)
def test_sections_are_read_and_written_byte_for_byte(worker, library):
    w = worker(ECHO, env={"ASYA_JSON": library})
    for case in VECTORS["sections"]:
        table = [OutBlob(b["dtype"], tuple(b["shape"]), bytes.fromhex(b["data_hex"])) for b in case["table"]]
        section = content(case["section"])
        found = w.one(None, table, raw=case["document"].encode(), payload=section)
        assert found.kind == 1, (case["name"], found.meta)
        assert found.blobs == table, case["name"]
        assert found.raw == section, case["name"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_malformed_sections_are_refused(worker, library):
    w = worker(ECHO, env={"ASYA_JSON": library})
    checked = 0
    for case in VECTORS["malformed_sections"]:
        if case["blobs"] == 0:
            continue  # a document that is shorter than its payload: the sidecar hands over the document alone
        section = content(case["section"])
        found = w.one(
            None, raw=section[: case["document_len"]], payload=section,
            fields={"blobs": case["blobs"], "payload_len": case["len"]},
        )  # fmt: skip
        assert found.kind == 3 and found.meta["kind"] == "msg_parsing_error", case["name"]
        checked += 1
    assert checked > 15
    assert w.one({"still": "there"}).document == {"still": "there"}


@pytest.mark.parametrize("library", LIBRARIES)
def test_payloads_and_contexts_of_envelopes(worker, library):
    w = worker(
        """
        import asya
        def handle(p):
            c = asya.context()
            return [p, [c.id, c.parent_id, c.route.prev, c.route.curr, c.route.next, c.headers, c.status]]
        """,
        env={"ASYA_JSON": library},
    )
    for case in VECTORS["envelopes"]:
        payload, context = case["payload"], json.loads(case["context"])
        section = content(payload["section"])
        document = section[: payload["document_len"]]
        number = w.call(
            None, raw=document, payload=section, context=context, fields={"blobs": payload["blobs"]}
        )
        (found,) = w.finish(number)
        if "Infinity" in json.dumps(json.loads(document)):
            # Beyond what a float can hold: Python reads infinity, and JSON cannot say that.
            assert "Out of range float" in found.meta["message"]
            continue
        assert found.kind == 1, (case["name"], found.meta)
        head, route = case["head"], case["head"]["route"]
        assert found.document[1] == [
            head["id"], head["parent_id"], route["prev"], route["curr"], route["next"], json.loads(head["headers"]),
            context.get("status"),
        ], case["name"]  # fmt: skip
        assert found.document[0] == json.loads(document), case["name"]
