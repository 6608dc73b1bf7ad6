"""How people write where things come from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.values.references import Reference, is_reference, parse

SHA = "ab" * 32


@pytest.mark.parametrize(
    ("text", "reference", "shown"),
    [
        ("hf://org/name", Reference("hf", "org/name"), "hf://org/name"),
        ("HF://org/name@v1.0", Reference("hf", "org/name", "v1.0"), "hf://org/name@v1.0"),
        ("hf://org/name@refs/pr/1", Reference("hf", "org/name", "refs/pr/1"), "hf://org/name@refs/pr/1"),
        ("ms://org/name", Reference("ms", "org/name"), "ms://org/name"),
        ("s3://bucket", Reference("s3", "bucket"), "s3://bucket"),
        ("s3://my.bucket/a/b/", Reference("s3", "my.bucket/a/b"), "s3://my.bucket/a/b"),
        ("https://h.example/a.zip?sig=x", Reference("https", "https://h.example/a.zip?sig=x"),
         "https://h.example/a.zip?…"),
        (f"https://h.example:8443/a.zip#sha256={SHA.upper()}",
         Reference("https", "https://h.example:8443/a.zip", sha256=SHA), "https://h.example:8443/a.zip"),
        ("http://127.0.0.1:9/a.zip", Reference("https", "http://127.0.0.1:9/a.zip"), "http://127.0.0.1:9/a.zip"),
    ],
)  # fmt: skip
def test_what_is_a_reference(text: str, reference: Reference, shown: str) -> None:
    assert is_reference(text)
    assert parse(text) == reference and str(reference) == shown


@pytest.mark.parametrize("text", ["org/name", "/srv/x", "./x", "~/x", "x", "", "C:/x", "a=hf://x", "://x", "demo"])
def test_what_is_a_path_or_a_name(text: str) -> None:
    assert not is_reference(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("file:///etc/passwd", "file:// is not fetched: write the path itself"),
        ("gs://bucket/x", "gs:// is not known; there are hf://"), ("ftp://h/x", "ftp:// is not known"),
        ("hf://name", "is no hf://ORG/NAME"), ("hf://a/b/c", "is no hf://ORG/NAME"), ("hf://../b", "is no hf://"),
        ("hf://a/b@../../x", "is no hf://"), ("hf://a/b@", "is no hf://"), ("hf://a/b c", "no spaces"),
        ("ms://a", "is no ms://ORG/NAME"), ("s3://B", "is no s3://BUCKET"), ("s3://bucket/../x", "is no s3://"),
        ("s3://bucket/x?y", "is no s3://"), ("https://", "without a host"), ("https://[x/", "without a host"),
        ("https://h:99999/x", "without a host"), ("https://u:p@h/x.zip", "a password in a URL is seen by many"),
        ("http://example.com/x.zip", "anybody on the way could change what is fetched"),
        ("https://h/x.zip#md5=1", "after # only sha256="), (f"https://h/{'x' * 3000}", "at most 2048"),
        ("hf://a/b\x1b", "printable"), ("https://h/\u202ex.zip", "printable"),
    ],
)  # fmt: skip
def test_what_cannot_be_fetched_is_said_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        parse(text)
    assert sentence in str(error.value) and "\n" not in str(error.value) and str(error.value).isprintable()


def test_who_means_the_same_for_ever() -> None:
    assert parse(f"hf://a/b@{'a' * 40}").is_pinned and parse(f"https://h/x.zip#sha256={SHA}").is_pinned
    assert not any(parse(text).is_pinned for text in ("hf://a/b@main", "hf://a/b", "s3://bucket", "https://h/x.zip"))


@given(st.text(max_size=60).map("https://".__add__) | st.text(max_size=60).map("hf://".__add__))
def test_whatever_is_written_a_key_is_a_name_of_a_folder(text: str) -> None:
    try:
        reference = parse(text)
    except ValueError:
        return
    assert len(reference.key) == 32 and reference.key.isalnum()
    assert str(reference).isprintable()
