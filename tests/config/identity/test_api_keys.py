from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.identity import api_keys
from config.identity.api_keys import MOST_SECRETS, SCOPES, ApiKey, Budget, Digest, Period, Priority
from config.identity.principal import Scope

_TIMES = st.none() | st.floats(0, 1e11, allow_nan=False)
_COUNTS = st.none() | st.integers(1, 10**15)
_DIGESTS = st.builds(Digest, st.from_regex(r"[0-9a-f]{64}", fullmatch=True), _TIMES)
_NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True).filter(lambda name: name not in _TAKEN)
_MODELS = st.lists(st.sampled_from(["base", "lora-a", "lora-b", "模型"]), min_size=1, unique=True).map(tuple)
_TAKEN = {"admin-key", "anybody", "anonymous", "owner", "session", "token"}

KEYS = st.builds(
    ApiKey,
    name=_NAMES,
    scope=st.sampled_from(SCOPES),
    digests=st.lists(_DIGESTS, min_size=1, max_size=MOST_SECRETS).map(tuple),
    models=st.none() | _MODELS,
    rpm=_COUNTS,
    tpm=_COUNTS,
    max_concurrent=_COUNTS,
    priority=st.sampled_from(Priority),
    weight=st.floats(0.001, 1000),
    expires=_TIMES,
    budget=st.none() | st.builds(Budget, st.integers(1, 10**15 - 1), st.sampled_from(Period)),
    created=st.floats(0, 1e11),
)


@given(KEYS)
def test_json_and_back(key: ApiKey) -> None:
    assert api_keys.from_json(json.loads(json.dumps(key.to_json()))) == key


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
_FIELDS = st.sampled_from([*ApiKey.__dataclass_fields__, "other"])


@given(KEYS, _FIELDS, _JSON)
def test_whatever_is_read_can_be_written_and_the_rest_says_which_field(key: ApiKey, field: str, value: object) -> None:
    try:
        found = api_keys.from_json({**key.to_json(), field: value})
    except ValueError as error:
        assert field in str(error)
    else:
        assert api_keys.from_json(found.to_json()) == found


@pytest.mark.parametrize("value", [None, [], "key", 3, {}, {"scope": "inference"}])
def test_what_is_no_key(value: object) -> None:
    with pytest.raises(ValueError):
        api_keys.from_json(value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "a;b"), ("name", "a" * 65), ("name", "owner"), ("name", "-a"), ("name", "a\n"), ("scope", "owner"),
        ("digests", []), ("digests", [{"sha256": "F" * 64}]), ("digests", [{"sha256": "f" * 63}]),
        ("digests", [{"sha256": "f" * 64}] * (MOST_SECRETS + 1)), ("digests", [{"sha256": "f" * 64, "more": 1}]),
        ("models", []), ("models", "base"), ("models", [""]), ("models", ["a\n"]), ("models", ["m"] * 257),
        ("rpm", 0), ("rpm", True), ("rpm", 1.5), ("tpm", -1), ("max_concurrent", "3"), ("priority", "urgent"),
        ("weight", 0), ("weight", 1e9), ("weight", float("nan")), ("expires", float("inf")), ("expires", "30d"),
        ("budget", 5), ("budget", "5/year"), ("budget", "0/day"),
    ],
)  # fmt: skip
def test_what_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        api_keys.from_json({"name": "a", field: value})


def test_a_secret_given_for_its_hash_is_not_repeated() -> None:
    secret, _ = api_keys.mint()
    for digests in ([secret], secret, [{"sha256": secret}], [{secret: 1}]):
        with pytest.raises(ValueError) as refused:
            api_keys.from_json({"name": "a", "digests": digests})
        assert secret not in str(refused.value)


def test_secrets() -> None:
    secret, digest = api_keys.mint()
    assert secret.startswith("cck_") and len(secret) == 4 + 43 and secret.isascii()
    assert digest == api_keys.digest(secret) != api_keys.digest(secret + "a")
    assert api_keys.mint()[0] != secret
    assert len(api_keys.digest("\udcff\0" * 1000)) == 64


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 2_592_000), ("12h", 43_200), ("90m", 5_400), ("45s", 45), ("2w", 1_209_600)]
)
def test_durations(text: str, seconds: float) -> None:
    assert api_keys.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5h", "1y", "999999999999w", "٣d", "1d2h"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError):
        api_keys.duration(text)


@given(st.integers(1, 10**15 - 1), st.sampled_from(Period))
def test_budgets(tokens: int, period: Period) -> None:
    assert api_keys.budget(str(Budget(tokens, period))) == Budget(tokens, period)


def test_expiry() -> None:
    assert ApiKey("a").holds(1e10) and ApiKey("a", expires=10.0).holds(9.9) and not ApiKey("a", expires=10.0).holds(10)


def test_rotation_keeps_those_before_for_a_grace() -> None:
    key = ApiKey("a", digests=(Digest("0" * 64), Digest("1" * 64, 150.0), Digest("2" * 64, 99.0)))
    assert key.rotated("3" * 64, 100.0, 60.0).digests == (
        Digest("3" * 64), Digest("0" * 64, 160.0), Digest("1" * 64, 150.0),
    )  # fmt: skip
    assert key.rotated("3" * 64, 100.0, 0.0).digests == (Digest("3" * 64),)


@given(KEYS, st.floats(0, 1e11), st.floats(0, 1e6))
def test_rotation_never_prolongs_a_secret(key: ApiKey, now: float, grace: float) -> None:
    try:
        rotated = key.rotated("f" * 64, now, grace)
    except ValueError:
        return
    before = {one.sha256: one.until for one in reversed(key.digests)}
    assert rotated.digests[0] == Digest("f" * 64) and len(rotated.digests) <= MOST_SECRETS
    for one in rotated.digests[1:]:
        assert one.until is not None and one.until <= now + grace
        assert any(one.sha256 == old.sha256 and (old.until is None or one.until <= old.until) for old in key.digests)
    assert before.keys() >= {one.sha256 for one in rotated.digests[1:]}


@given(KEYS, KEYS, KEYS)
def test_wider_than_is_an_order(one: ApiKey, two: ApiKey, three: ApiKey) -> None:
    assert not api_keys.excess(one, one)
    if not api_keys.excess(one, two) and not api_keys.excess(two, three):
        assert not api_keys.excess(one, three)


@pytest.mark.parametrize(
    ("field", "narrow", "wide"),
    [
        ("scope", Scope.INFERENCE, Scope.READ), ("scope", Scope.READ, Scope.ADMIN), ("models", ("a",), ("a", "b")),
        ("models", ("a",), None), ("rpm", 5, 6), ("rpm", 5, None), ("tpm", 5, None), ("max_concurrent", 1, 2),
        ("priority", Priority.NORMAL, Priority.HIGH), ("priority", Priority.LOW, Priority.NORMAL), ("weight", 1.0, 1.5),
        ("expires", 10.0, 11.0), ("expires", 10.0, None), ("budget", Budget(5, Period.DAY), None),
        ("budget", Budget(5, Period.MONTH), Budget(5, Period.DAY)),
        ("budget", Budget(5, Period.DAY), Budget(6, Period.DAY)),
    ],
)  # fmt: skip
def test_which_key_may_more(field: str, narrow: object, wide: object) -> None:
    key = ApiKey("a")
    low, high = replace(key, **{field: narrow}), replace(key, **{field: wide})
    assert api_keys.excess(high, low) == field
    assert api_keys.excess(low, high) == ""
