"""Flowcharts and tables of a net."""

import re
from typing import Any

from service.schemas.judgement import require
from service.schemas.mermaid import mermaid
from service.schemas.table import size_text, table


def drawn(raw: Any) -> str:
    judgement = require(raw)
    assert judgement.architecture is not None
    assert judgement.summary is not None
    return mermaid(judgement.architecture, judgement.summary)


def document(root: Any, *shape: Any) -> dict[str, Any]:
    return {"schema": "arch/1", "inputs": [{"name": "x", "shape": ["B", *shape]}], "root": root}


def linear(name: str, n: int, m: int) -> dict[str, Any]:
    return {"name": name, "type": "Linear", "in_features": n, "out_features": m}


BODY = {"name": "body", "type": "Sequential", "layers": [linear("0", 3, 4), {"type": "ReLU"}]}
NET = document(
    {
        "type": "Graph",
        "class_name": "Net",
        "layers": [BODY, linear("head", 4, 2)],
        "forward": ["h = body(x)", "return head(relu(h) + 1)"],
    },
    3,
)


def test_a_flowchart_has_containers_operations_and_shapes():
    assert drawn(NET) == (
        """flowchart TD
    n1(["x<br/>float32"])
    subgraph s2["Net"]
        subgraph s3["body · Sequential"]
            n4["0<br/>Linear(3, 4)"]
            n5["1<br/>ReLU()"]
        end
        n6("relu")
        n7("+ 1")
        n8["head<br/>Linear(4, 2)"]
    end
    n9(["output<br/>float32"])
    n1 -->|"B × 3"| n4
    n4 -->|"B × 4"| n5
    n5 -->|"B × 4"| n6
    n6 -->|"B × 4"| n7
    n7 --> n8
    n8 -->|"B × 2"| n9
"""
    )


def test_a_shared_container_is_drawn_once_and_no_edge_leads_from_a_node_to_its_own_container():
    inner = {"name": "f", "type": "Graph", "layers": [linear("a", 3, 3)], "forward": ["return a(x)"]}
    text = drawn(document({"type": "Graph", "layers": [inner], "forward": ["return f(f(x))"]}, 3))

    assert text.count("subgraph") == 2
    assert text.count("Linear(3, 3)") == 1
    assert re.findall(r"--> ?s|\| s", text) == []
    assert 'n4 -->|"B × 3"| n4' in text


def test_several_values_and_free_tensors_are_edges_too():
    pair = {"name": "pair", "type": "Graph", "forward": ["return x + 1, x * 2"]}
    scale = {"name": "scale", "type": "Parameter", "shape": [1, 3]}
    root = {"type": "Graph", "layers": [pair, scale], "forward": ["a, b = pair(x)", "return b * scale"]}
    text = drawn(document(root, 3))

    assert '[/"scale<br/>Parameter"/]' in text
    assert "× 2" in text


def test_labels_hold_nothing_that_could_end_them():
    root = {"type": "Sequential", "layers": [{"name": "end", "type": "GELU", "approximate": "tanh"}]}
    raw = document(root, 3)
    raw["labels"] = {"title": '"]; click n1 "javascript:alert(1)"'}
    text = drawn(raw)

    assert '["end<br/>GELU(approximate=#34;tanh#34;)"]' in text
    assert "javascript" not in text
    for line in text.splitlines():
        assert line.count('"') in (0, 2)


def test_a_table_of_a_net():
    summary = require(NET).summary
    assert summary is not None

    assert table(summary) == (
        """Layer    Type     Output shape   Parameters
───────────────────────────────────────────
body.0   Linear   [B, 4]                 16
body.1   ReLU     [B, 4]                  0
head     Linear   [B, 2]                 10
───────────────────────────────────────────
Inputs             x [B, 3] float32
Outputs            output [B, 2] float32
Parameters         26 (26 trainable)
"""
        f"FLOPs for a row    {summary['flops']}\n"
        f"Memory for a row   {summary['memory_bytes']} B\n"
    )


def test_a_net_that_is_one_layer():
    raw = document({"type": "ReLU"}, 3)
    summary = require(raw).summary
    assert summary is not None

    assert "(the net)   ReLU" in table(summary)
    assert 'n2["ReLU()"]' in drawn(raw)


def test_sizes_have_the_unit_that_fits():
    assert [size_text(n) for n in (0, 1023, 1024, 553_430_176, 2**31)] == [
        "0 B", "1023 B", "1.0 KiB", "527.8 MiB", "2.0 GiB",
    ]  # fmt: skip
