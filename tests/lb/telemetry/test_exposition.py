from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from lb.telemetry.exposition import merge

NASTY = ['a b', 'a}b', '{"a"="b"}', 'say "no"', "back\\slash", "two\nlines", "a,b=c", "# HELP x",
         "ünï", "a\u2028b", "a\x85b", "a\rb"]  # fmt: skip


def exposition(value: str = "base", amount: float = 3) -> str:
    """What a worker says, by the real client library."""
    registry = CollectorRegistry()
    Gauge("vllm:num_requests_running", "Running", ["model_name"], registry=registry).labels(value).set(amount)
    Counter("vllm:prompt_tokens", "Tokens", ["model_name"], registry=registry).labels(value).inc(amount)
    first = Histogram("vllm:ttft_seconds", "TTFT", ["model_name"], registry=registry, buckets=(0.1, 1))
    first.labels(value).observe(0.5)
    Gauge("process_open_fds", "Open files", registry=registry).set(7)
    return generate_latest(registry).decode()


def families(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))


def blocks(text: str) -> list[str]:
    """The family of each line, less repetitions in a row: a family that is not in one piece is there twice."""
    found: list[str] = []
    for line in text.splitlines():
        name = line.split(" ")[2] if line.startswith("# ") else line.partition("{")[0]
        for suffix in ("_bucket", "_sum", "_count"):
            name = name.removesuffix(suffix) if "ttft" in name else name
        if not found or found[-1] != name:
            found.append(name)
    return found


def test_every_sample_has_its_instance() -> None:
    merged = families(merge({"instance_0": exposition(), "instance_1": exposition()}))
    samples = [sample for family in merged for sample in family.samples]
    assert samples
    assert {sample.labels.get("instance") for sample in samples} == {"instance_0", "instance_1"}


def test_nothing_but_the_label_is_changed() -> None:
    text = exposition()
    before = {(s.name, tuple(sorted(s.labels.items())), s.value) for f in families(text) for s in f.samples}
    after = families(merge({"instance_0": text}))
    stripped = {
        (s.name, tuple(sorted((k, v) for k, v in s.labels.items() if k != "instance")), s.value)
        for f in after for s in f.samples
    }  # fmt: skip
    assert stripped == before


def test_each_family_stands_together_with_one_help_and_one_type() -> None:
    text = merge({f"instance_{n}": exposition() for n in range(3)})
    assert len(blocks(text)) == len(set(blocks(text)))
    heads = [line for line in text.splitlines() if line.startswith("# ")]
    names = [tuple(line.split(" ")[1:3]) for line in heads]
    assert len(names) == len(set(names))
    assert {f.name: f.type for f in families(text)}["vllm:ttft_seconds"] == "histogram"


def test_families_stay_together_where_the_workers_order_them_differently() -> None:
    turned = "".join(f"# TYPE {name} gauge\n{name} 1\n" for name in ("b", "a"))
    straight = "".join(f"# TYPE {name} gauge\n{name} 1\n" for name in ("a", "b"))
    assert [len(f.samples) for f in families(merge({"x": straight, "y": turned}))] == [2, 2]


@pytest.mark.parametrize("value", NASTY)
def test_label_values_of_any_kind_survive(value: str) -> None:
    merged = families(merge({"instance_0": exposition(value), "instance_1": exposition("base")}))
    found = {
        (s.labels["instance"], s.labels["model_name"])
        for f in merged if f.name == "vllm:num_requests_running" for s in f.samples
    }  # fmt: skip
    assert found == {("instance_0", value), ("instance_1", "base")}


def test_a_sample_without_labels_and_one_with_empty_braces_get_the_label() -> None:
    assert merge({"i": "a 1\nb{} 2\n"}) == 'a{instance="i"} 1\nb{instance="i"} 2\n'


def test_timestamps_stay() -> None:
    assert merge({"i": "a 1 1700000000000\n"}) == 'a{instance="i"} 1 1700000000000\n'


def test_a_gauge_called_like_another_familys_count_stays_its_own() -> None:
    text = "# TYPE x histogram\nx_sum 1\nx_count 1\n# TYPE x_total gauge\nx_total 5\n"
    lines = merge({"i": text, "j": text}).splitlines()
    assert lines.index("# TYPE x_total gauge") == 5
    assert lines[6:] == ['x_total{instance="i"} 5', 'x_total{instance="j"} 5']


def test_comments_of_any_kind_are_left_out() -> None:
    assert merge({"i": "# just words here\n#no space { either\n# EOF\n#\n\na 1\n"}) == 'a{instance="i"} 1\n'


def test_what_is_no_exposition_does_not_spoil_the_others() -> None:
    text = merge({"i": '<html>\n<body class="x">it works</body>\nbroken{\n', "j": "a 1\n"})
    assert [(s.name, s.labels, s.value) for f in families(text) for s in f.samples] == [("a", {"instance": "j"}, 1.0)]


def test_a_sample_that_has_an_instance_already_does_not_get_two() -> None:
    """As from an attached backend that is a cluster itself."""
    (line,) = merge({"backend_0": 'a{instance="instance_0",x="1"} 1\n'}).splitlines()
    names = [part.partition("=")[0] for part in line[2 : line.index("}")].split(",")]
    assert len(names) == len(set(names))
    assert 'instance="backend_0"' in line


def test_nothing_from_nobody_is_nothing() -> None:
    assert merge({}) == ""
    assert merge({"i": ""}) == ""
