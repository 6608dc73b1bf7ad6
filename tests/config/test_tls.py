"""Certificates in files: what is refused in one sentence, what is taken when it changes, what is kept."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from certificates import Issued, authority, issue
from config import tls
from config.errors import UsageError


@pytest.fixture
def served(tmp_path: Path) -> Issued:
    return issue(tmp_path, "localhost")


def refusal(issued: Issued, **other: str) -> str:
    with pytest.raises(UsageError) as error:
        tls.load(replace(issued.files, **other))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_pair_says_what_it_is_for_and_how_long(served: Issued) -> None:
    found = tls.load(served.files)
    assert found.names == ("localhost", "127.0.0.1")
    assert 29 < (found.expires - time.time()) / 86400 <= 30
    tls.check_dates(served.files, found)


def test_one_that_has_expired_is_refused(served: Issued, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tls.load(served.files)
    monkeypatch.setattr(time, "time", lambda: found.expires + 1)
    with pytest.raises(UsageError, match=rf"--tls-cert {served.cert}: it has expired, on 20\d\d-"):
        tls.check_dates(served.files, found)
    assert tls.load(served.files), "whoever serves it already goes on with it"


def test_what_is_wrong_is_said_in_one_sentence(served: Issued, tmp_path: Path) -> None:
    other, missing, empty = issue(tmp_path / "other", "other"), tmp_path / "none.pem", tmp_path / "empty.pem"
    empty.touch(mode=0o600)
    assert refusal(served, cert=str(missing)) == f"--tls-cert {missing}: No such file or directory"
    assert refusal(served, key=str(missing)) == f"--tls-key {missing}: No such file or directory"
    assert refusal(served, cert=str(empty)) == f"--tls-cert {empty}: holds no certificate"
    assert refusal(served, cert=str(tmp_path)).startswith(f"--tls-cert {tmp_path}: is no regular file")
    assert refusal(served, key=str(empty)) == f"--tls-key {empty}: holds no private key"
    assert refusal(served, key=str(other.key)) == f"--tls-key {other.key}: not the key of {served.cert}"
    assert refusal(served, client_ca=str(empty)).startswith(f"--tls-client-ca {empty}: ")
    assert refusal(served, client_ca=str(missing)).startswith(f"--tls-client-ca {missing}: No such file")


def test_what_is_cut_short_is_refused(served: Issued) -> None:
    whole = served.cert.read_text()
    served.cert.write_text(whole[:200])
    assert str(served.cert) in refusal(served)
    served.cert.write_text(whole[:200] + "\n-----END CERTIFICATE-----\n")
    assert str(served.cert) in refusal(served)


def test_a_key_with_a_passphrase_is_refused_without_asking_for_it(served: Issued) -> None:
    served.key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nx\n-----END ENCRYPTED PRIVATE KEY-----\n")
    assert refusal(served).endswith("it has a passphrase; one without is needed")


def test_a_certificate_of_clients_is_none_of_a_server(tmp_path: Path) -> None:
    assert "unsuitable certificate purpose" in refusal(issue(tmp_path, "x", None, "extendedKeyUsage=clientAuth"))


def test_a_key_that_others_can_read_or_change_is_refused(served: Issued, tmp_path: Path) -> None:
    served.key.chmod(0o640)
    assert tls.load(served.files), "a group may be there to read it"
    served.key.chmod(0o604)
    assert refusal(served) == f"--tls-key {served.key}: everybody may read it: chmod o-rwx {served.key}"
    served.key.chmod(0o602)
    assert "everybody may write in" in refusal(served)
    served.key.chmod(0o600)
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    link = open_folder / "key"
    link.symlink_to(served.key)
    assert f"everybody may write in {open_folder}" in refusal(served, key=str(link))
    open_folder.chmod(0o755)
    assert tls.load(replace(served.files, key=str(link))), "links are what a renewal makes"


@pytest.mark.skipif(os.geteuid() != 0, reason="files are given to other users")
def test_a_key_of_another_user_is_refused(served: Issued) -> None:
    os.chown(served.key, 54321, 0)
    assert refusal(served) == f"--tls-key {served.key}: {served.key} belongs to user 54321"


def test_a_change_is_taken_when_it_stands_still(served: Issued, tmp_path: Path) -> None:
    watch = tls.FileWatch(served.files)
    assert watch.look() is None
    served.replace(issue(tmp_path / "new", "renewed"))
    assert watch.look() is None, "the other file may be on its way"
    found = watch.look()
    assert found is not None
    assert found.names[0] == "renewed"
    assert watch.look() is None


def test_a_change_for_the_worse_is_told_once_and_then_one_for_the_better_is_taken(
    served: Issued, tmp_path: Path
) -> None:
    watch, new = tls.FileWatch(served.files), issue(tmp_path / "new", "renewed")
    served.cert.write_bytes(new.cert.read_bytes())
    watch.look()
    with pytest.raises(UsageError, match="not the key of"):
        watch.look()
    assert watch.look() is None
    served.key.write_bytes(new.key.read_bytes())
    watch.look()
    assert watch.look() is not None


def test_files_that_go_and_come_back_are_the_same_again(served: Issued) -> None:
    watch, hidden = tls.FileWatch(served.files), served.cert.with_suffix(".away")
    served.cert.rename(hidden)
    assert watch.look() is None
    hidden.rename(served.cert)
    assert watch.look() is None
    assert watch.look() is None


def test_what_is_kept_serves_like_what_it_was_made_of(served: Issued, tmp_path: Path) -> None:
    path = tmp_path / "tls.json"
    assert tls.kept(path) is tls.kept_leaf(path) is None
    assert not tls.is_kept(path, served.files)
    found = tls.load(replace(served.files, client_ca=str(authority(tmp_path / "ca").cert)))
    tls.keep(path, served.files, found)
    assert tls.is_kept(path, served.files)
    assert not tls.is_kept(path, replace(served.files, client_ca="another"))
    assert path.stat().st_mode & 0o777 == 0o600
    again = tls.kept(path)
    assert again is not None
    assert (again.names, again.expires) == (found.names, found.expires)
    assert again.context.verify_mode is found.context.verify_mode
    assert tls.kept_leaf(path) == served.cert.read_text().strip()
    path.write_text("{}")
    assert tls.kept(path) is tls.kept_leaf(path) is None
