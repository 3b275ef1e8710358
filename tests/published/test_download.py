"""Downloads against a server of made-up weights by the real paths: resumed, checked, shared, refused in sentences."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from terrazzo.base import InputError
from terrazzo.published import download
from terrazzo.published.catalog import Entry, find_entry
from zoo_server import ZooServer, published

NAME = "fast_scnn_8xb4-160k_cityscapes-512x1024"
CONTENT = bytes(range(256)) * 4000
"""1 MB: four times what is read at once."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ZooServer]:
    monkeypatch.setattr(download, "PAUSE", 0.001)
    with published(tmp_path, monkeypatch) as running:
        yield running


def part_of(entry: Entry) -> Path:
    place = download.cache_folder() / "mmsegmentation" / f"{entry.weights_file}.part"
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def test_a_file_is_asked_for_by_its_published_path_and_once(server: ZooServer) -> None:
    entry = server.publish(NAME, CONTENT)
    told: list[tuple[int, int]] = []
    assert download.cached(entry) is None
    path = download.fetch(entry, lambda here, total: told.append((here, total)))
    assert path.read_bytes() == CONTENT
    assert path.name == entry.weights_file
    assert download.cached(entry) == path
    assert server.asked == [(f"/v0.5/fast_scnn/fast_scnn_lr0.12_8x4_160k_cityscapes/{entry.weights_file}", None)]
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert not part_of(entry).exists()
    assert download.fetch(entry) == path
    assert len(server.asked) == 1


def test_a_cut_connection_goes_on_where_it_was_cut(server: ZooServer) -> None:
    entry = server.publish(NAME, CONTENT)
    server.cut_after = 300_000
    assert download.fetch(entry).read_bytes() == CONTENT
    assert [given for _, given in server.asked] == [
        None,
        "bytes=300000-",
        "bytes=600000-",
        "bytes=900000-",
    ]


def test_a_server_without_ranges_is_asked_for_everything_again(server: ZooServer) -> None:
    entry = server.publish(NAME, CONTENT)
    part_of(entry).write_bytes(CONTENT[:1000])
    server.ranges = False
    assert download.fetch(entry).read_bytes() == CONTENT


@pytest.mark.parametrize("kept", [CONTENT, CONTENT + b"more", b"x" * 1000, b""], ids=["all", "more", "wrong", "none"])
def test_whatever_an_earlier_try_left_the_file_is_right(server: ZooServer, kept: bytes) -> None:
    entry = server.publish(NAME, CONTENT)
    part_of(entry).write_bytes(kept)
    assert download.fetch(entry).read_bytes() == CONTENT


def test_a_connection_that_is_always_cut_is_a_sentence_and_keeps_what_came(server: ZooServer) -> None:
    entry = server.publish(NAME, CONTENT)
    server.cut_after = 0
    part_of(entry).write_bytes(CONTENT[:500_000])
    with pytest.raises(InputError, match=r"was cut; 0\.5 MB are here, and the next try goes on"):
        download.fetch(entry)
    server.cut_after = None
    assert download.fetch(entry).read_bytes() == CONTENT
    assert server.asked[-1][1] == "bytes=500000-"


def test_another_file_under_the_published_name_is_refused(server: ZooServer) -> None:
    entry = server.publish(NAME, CONTENT)
    (server.root / entry.path).write_bytes(b"something else")
    found = hashlib.sha256(b"something else").hexdigest()[:8]
    with pytest.raises(InputError, match=f"begins with {found}, the published one's with {entry.digest}"):
        download.fetch(entry)
    assert download.cached(entry) is None
    assert not part_of(entry).exists()


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (403, 1), (503, download.TRIES)])
def test_refusals_are_sentences(server: ZooServer, status: int, asked: int) -> None:
    entry = server.publish(NAME, CONTENT)
    server.status = status
    with pytest.raises(InputError, match=rf"answers {status} .*TERRAZZO_MIRROR"):
        download.fetch(entry)
    assert len(server.asked) == asked


def test_mirrors_are_tried_in_their_order(server: ZooServer, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = server.publish(NAME, CONTENT)
    monkeypatch.setenv("TERRAZZO_MIRROR", f"http://127.0.0.1:9/, {server.address}/nowhere,{server.address}/")
    assert download.fetch(entry).read_bytes() == CONTENT
    assert [path.startswith("/nowhere") for path, _ in server.asked] == [True, False]
    monkeypatch.setenv("TERRAZZO_MIRROR", "ftp://somewhere")
    with pytest.raises(InputError, match="'ftp://somewhere' is no address"):
        download.fetch(replace(entry, weights_file="other-00000000.pth"))


@pytest.mark.parametrize("variable", ["TERRAZZO_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_nothing_is_asked_and_the_cache_still_gives(
    server: ZooServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    entry = server.publish(NAME, CONTENT)
    monkeypatch.setenv(variable, "1")
    with pytest.raises(InputError, match=r"forbids the net; .*put the file of https://download\.openmmlab\.com/.* at "):
        download.fetch(entry)
    assert server.asked == []
    monkeypatch.setenv(variable, "0")
    path = download.fetch(entry)
    monkeypatch.setenv(variable, "1")
    assert download.fetch(entry) == path


def test_no_space_and_no_right_to_write_are_sentences(
    server: ZooServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entry = server.publish(NAME, CONTENT)
    with monkeypatch.context() as full:
        full.setattr(download.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
        with pytest.raises(InputError, match="0 MB left, and 1 MB are to come"):
            download.fetch(entry)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TERRAZZO_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot write to .*set TERRAZZO_CACHE"):
        download.fetch(entry)


SCRIPT = """
import sys
from dataclasses import replace
from terrazzo.published import download
from terrazzo.published.catalog import find_entry
entry = replace(find_entry(sys.argv[1]), weights_file=sys.argv[2])
def slowly(here, total):
    import time
    print(here, flush=True)
    time.sleep(float(sys.argv[3]))
download.fetch(entry, slowly)
"""


def start(entry: Entry, pause: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SCRIPT, entry.name, entry.weights_file, str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_killed_half_way_the_next_process_goes_on(server: ZooServer) -> None:
    entry = server.publish(NAME, CONTENT)
    first = start(entry, 30)
    assert first.stdout is not None
    here = int(first.stdout.readline())
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert download.cached(entry) is None
    assert download.fetch(entry).read_bytes() == CONTENT
    kept = int(str(server.asked[-1][1]).removeprefix("bytes=").removesuffix("-"))
    assert 0 < kept <= here < len(CONTENT)


def test_several_processes_download_once(server: ZooServer) -> None:
    entry = server.publish(NAME, CONTENT)
    processes = [start(entry, 0.2) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    for process in processes:
        process.communicate()
    assert len(server.asked) == 1
    found = download.cached(entry)
    assert found is not None
    assert found.read_bytes() == CONTENT


def test_the_cache_is_where_the_system_keeps_such_things(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TERRAZZO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    found = {}
    for system in ("linux", "darwin", "win32"):
        monkeypatch.setattr(download.sys, "platform", system)
        found[system] = download.cache_folder()
    assert found["linux"] == found["win32"] == tmp_path / "terrazzo"
    assert found["darwin"] == Path.home() / "Library/Caches/terrazzo"


def test_the_published_address_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TERRAZZO_MIRROR", raising=False)
    entry = find_entry(NAME)
    assert entry is not None
    assert f"{download.mirrors()[0]}/{entry.path}".startswith(
        "https://download.openmmlab.com/mmsegmentation/v0.5/fast_scnn/fast_scnn_lr0.12_8x4_160k_cityscapes/fast_scnn_lr0"
    )
