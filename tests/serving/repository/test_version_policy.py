"""VersionPolicy: its two forms, and what it chooses."""

from __future__ import annotations

import pytest

from nested_sparse.errors import InputError
from nested_sparse.serving.repository.version_policy import VersionPolicy


@pytest.mark.parametrize(
    ("text", "json", "chosen"),
    [
        ("latest", {"latest": {"num_versions": 1}}, [12]),
        ("latest:2", {"latest": {"num_versions": 2}}, [3, 12]),
        ("latest:9", {"latest": {"num_versions": 9}}, [1, 3, 12]),
        ("all", {"all": {}}, [1, 3, 12]),
        ("3,7,1", {"specific": {"versions": [3, 7, 1]}}, [1, 3]),
        ("7", {"specific": {"versions": [7]}}, []),
    ],
)
def test_a_policy_chooses_the_same_in_both_forms(text, json, chosen):
    """Of versions in any order, rising; numbers are compared as numbers."""
    policy = VersionPolicy.read(text)
    assert policy == VersionPolicy.of_json(json)
    assert policy.chosen([12, 1, 3]) == chosen
    assert VersionPolicy.read(str(policy)) == policy


@pytest.mark.parametrize(
    "text",
    [
        "", "newest", "latest:", "latest:0", "latest:1,2", "latest:-1", "latest: 1", "latest:4294967296", "0", "1,",
        "1,,2", "01", "9223372036854775808", "1.5", "all:1", "ALL",
    ],
)  # fmt: skip
def test_other_texts_are_refused(text):
    with pytest.raises(InputError, match=r"^version policy: expected 'latest'"):
        VersionPolicy.read(text)


@pytest.mark.parametrize(
    "value",
    [
        None, [], {}, "all", 1, {"all": {"x": 1}}, {"all": {}, "latest": {"num_versions": 1}}, {"newest": {}},
        {"latest": {}}, {"latest": {"num_versions": 0}}, {"latest": {"num_versions": True}},
        {"latest": {"num_versions": 2**32}}, {"latest": {"num_versions": "1"}}, {"specific": {"versions": []}},
        {"specific": {"versions": [0]}}, {"specific": {"versions": [2**63]}}, {"specific": {"versions": 1}},
        {"specific": {"versions": [1], "more": 2}},
    ],
)  # fmt: skip
def test_other_json_is_refused(value):
    with pytest.raises(InputError, match=r"^version_policy: expected"):
        VersionPolicy.of_json(value)


def test_the_protocol_states_the_policy():
    assert VersionPolicy.read("1,3").message().specific.versions == [1, 3]
    assert VersionPolicy.read("latest:2").message().latest.num_versions == 2
    assert VersionPolicy.read("all").message().WhichOneof("policy_choice") == "all"
