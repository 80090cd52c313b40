"""What must not be published, wherever it hides, and what only looks like it."""

import base64
import hashlib
import io
import json
import os
import pickle
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hf_inspect import files
from hf_inspect.errors import DataError, HubError, InspectError, MissingExtraError
from hf_inspect.hub import check, files_to_push, kind_of
from hf_inspect.hub.contents import refuse_content, refuse_value
from tests.hub import TOKEN
from tests.scripted import brightness_cascade

CARD = "---\nlicense: cc0-1.0\n---\n\n# A test's\n"
PICKLE = pickle.dumps({"weights": [1, 2, 3]}, protocol=4)


@pytest.fixture
def cascade(tmp_path) -> Path:
    folder = brightness_cascade(tmp_path / "cascade")
    files.write_text(folder / "README.md", CARD)
    return folder


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


def saved(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, kind, **options)
    return buffer.getvalue()


def png_with(text: str, compressed: bool) -> bytes:
    chunks = PngInfo()
    chunks.add_text("Comment", text, zip=compressed)
    return saved("png", pnginfo=chunks)


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([{}], dtype=object))
    return buffer.getvalue()


TOKENS = [
    ("tokenizer_config.json", json.dumps({"auth": TOKEN}).encode()),
    ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}" + TOKEN.encode()),
    ("openvino_model.bin", b"\0" * ((1 << 22) - 9) + TOKEN.encode() + b"\0" * 9),  # over the end of a block
    ("plots/roc.png", png_with(TOKEN, compressed=False)),
    ("plots/roc.png", png_with(TOKEN, compressed=True)),
    ("photo.JPG", saved("jpeg", comment=TOKEN.encode())),
    ("LICENSE", f"by {TOKEN}\n".encode()),
    ("old.md", b"api_org_" + b"x" * 34),
    ("signed.md", b"hf_oauth_" + b"x" * 40),
    ("ours.whl", zipped(package__setting_py=f"token = '{TOKEN}'".encode())),
]


@pytest.mark.parametrize(("name", "content"), TOKENS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(TOKENS)])
def test_a_token_is_found_and_not_shown(tmp_path, name, content):
    files.write_bytes(tmp_path / name, content)
    with pytest.raises(HubError, match=r"holds an access token\. Take it out, and revoke it") as refused:
        refuse_content(name, tmp_path / name)
    assert TOKEN not in str(refused.value)


JWT_HEAD, JWT_BODY = (base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (b'{"alg":"x"}', b'{"sub":1}'))
KEYS = {  # made here piece by piece: no key stands in this file
    "AWS Access Key": "AKIA" + "Q7" * 8,
    "Azure Storage Account access key": "AccountKey=" + "Ab1+" * 22,
    "Basic Auth Credentials": "https:" + "//plant:" + "s3cret" + "@mirror.example/simple",
    "GitHub Token": "ghp_" + "a1" * 18,
    "GitLab Token": "glpat-" + "a1B2" * 5,
    "JSON Web Token": f"{JWT_HEAD}.{JWT_BODY}.c2ln",
    "NPM tokens": "//registry.example/" + ":_authToken=npm_" + "a" * 36,
    "OpenAI Token": "sk-" + "a1" * 10 + "T3Blbk" + "FJ" + "b2" * 10,
    "Private Key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "PyPI Token": "pypi-" + "AgEIcHlwaS5vcmc" + "a" * 70,
    "SendGrid API Key": "SG." + "a" * 22 + "." + "b" * 43,
    "Slack Token": "xoxb-" + "1234-" * 2 + "abcd",
    "Stripe Access Key": "sk_" + "live_" + "a1" * 12,
    "Telegram Bot Token": "123456789:" + "a" * 35,
    "Google API Key": "AIza" + "b" * 35,
    "Anthropic Key": "sk-ant-" + "api03-" + "c" * 40,
}
NEWER_FORMS = {"GitHub Token": "github_pat_" + "d" * 82, "OpenAI Token": "sk-proj-" + "e-" * 40}


@pytest.mark.parametrize(("kind", "key"), [*KEYS.items(), *NEWER_FORMS.items()])
def test_a_key_of_another_service_is_named_by_kind_and_line_and_not_shown(tmp_path, kind, key):
    for name, text in {
        "notes.md": f"first\nour key is {key}\n",
        "log.json": f'[\n{{"a": {json.dumps(key)}}}\n]',
    }.items():
        files.write_text(tmp_path / name, text)
        with pytest.raises(
            HubError, match=rf"^{name}, line 2, holds a secret \({kind}\)\. Take it out, and"
        ) as refused:
            refuse_content(name, tmp_path / name)
        assert key not in str(refused.value)
    with pytest.raises(HubError, match=rf"^test\.parquet holds a secret \({kind}\)"):
        refuse_value("test.parquet", {"image": {"bytes": b"x"}, "messages": [{"content": f"see {key}"}]})


def test_a_key_is_found_in_what_carries_texts(tmp_path):
    key = KEYS["AWS Access Key"]
    head = json.dumps({"__metadata__": {"by": key}}).encode()
    for name, content in {
        "model.safetensors": len(head).to_bytes(8, "little") + head,
        "plots/roc.png": png_with(key, compressed=True),
        "photo.jpg": saved("jpeg", comment=key.encode()),
        "ours.whl": zipped(package__settings_py=f"ID = '{key}'".encode()),
    }.items():
        files.write_bytes(tmp_path / name, content)
        with pytest.raises(HubError, match=r"holds a secret \(AWS Access Key\)"):
            refuse_content(name, tmp_path / name)


def test_nobody_is_asked_whether_a_key_is_valid(tmp_path, monkeypatch):
    """detect-secrets' own scan sends what it finds to the service that it may be a key of."""
    asked = []
    monkeypatch.setattr("requests.sessions.Session.request", lambda *given, **more: asked.append(given))
    for kind in ("AWS Access Key", "Slack Token", "Stripe Access Key", "Telegram Bot Token"):
        files.write_text(tmp_path / "notes.md", KEYS[kind])
        with pytest.raises(HubError, match=kind):
            refuse_content("notes.md", tmp_path / "notes.md")
    assert asked == []


def test_without_the_scanner_nothing_goes_up(tmp_path, monkeypatch):
    from hf_inspect.hub import secrets

    secrets._detectors.cache_clear()
    monkeypatch.setitem(sys.modules, "detect_secrets.core.plugins.util", None)
    files.write_text(tmp_path / "notes.md", "harmless")
    with pytest.raises(MissingExtraError, match=r"pip install 'hf-inspect\[edge\]'"):
        refuse_content("notes.md", tmp_path / "notes.md")


PICKLES = [
    ("weights.PKL", b"x"),
    ("data.npz", npz()),
    ("openvino_model.bin", PICKLE),
    ("openvino_model.bin", zipped(archive__data_pkl=PICKLE)),
    ("model.safetensors", zipped(archive__data_pkl=PICKLE)),
    ("model.safetensors", b""),
    ("plots/roc.png", PICKLE),
    ("LICENSE", PICKLE),
    ("ours.whl", zipped(package__cache=PICKLE)),
]


@pytest.mark.parametrize(("name", "content"), PICKLES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(PICKLES)])
def test_a_pickle_is_found_under_any_name(tmp_path, name, content):
    files.write_bytes(tmp_path / name, content)
    with pytest.raises(HubError, match="is a pickle"):
        refuse_content(name, tmp_path / name)


PATHS = [
    ("notes.md", "see /opt/plant/line3"),
    ("notes.md", "see file:///home/anna/x"),
    ("training_log.json", '{"out": "C:/Users/anna"}'),
    ("training_log.json", '{"data": "/data/parts"}'),
    ("splits/test.TXT", "C:\\parts\\1.png"),
]


@pytest.mark.parametrize(("name", "text"), PATHS)
def test_a_path_of_a_machine_is_found(tmp_path, name, text):
    files.write_text(tmp_path / name, f"first\n{text}\n")
    with pytest.raises(HubError, match="line 2, holds a path of a machine"):
        refuse_content(name, tmp_path / name)


HARMLESS = [
    ("notes.md", b"https://hub.example/data/parts, ../data/parts, <br/>data, s3://work/x, ~/data, and/or, 3:/4"),
    ("notes.md", b"hf_inspect, hf_" + b"x" * 10 + b", whf_" + b"x" * 34),
    ("tokenizer.json", b'{"vocab": {"/home/user": 7}}'),
    ("README.md", CARD.replace("\n", "\r\n").encode()),
    ("openvino_model.bin", b"\x80\x04" + b"\0" * 40),
    ("ours.whl", zipped(package__module_py=b"ROOTS = '/home/'")),
    ("broken.png", b"no picture"),
    ("empty.txt", b""),
    ("manifest.json", json.dumps({"sha256": hashlib.sha256(b"x").hexdigest(), "signature": "qL0=" * 11}).encode()),
    ("tokenizer_config.json", b'{"pad_token": "<pad>", "key": "' + b"a" * 44 + b'"}'),
    ("notes.md", b"APERTURESIZE 4, OpenVINO 2026.4.1.0, https://hub.example/x, sha256:" + b"0f" * 32),
]


@pytest.mark.parametrize(("name", "content"), HARMLESS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(HARMLESS)])
def test_what_only_looks_like_it_may_go_up(tmp_path, name, content):
    files.write_bytes(tmp_path / name, content)
    refuse_content(name, tmp_path / name)


def test_texts_are_utf_8_and_say_so_where_they_are_not(cascade):
    for content in (f"{CARD}é".encode("latin-1"), CARD.encode("utf-16")):
        files.write_bytes(cascade / "README.md", content)
        with pytest.raises(DataError, match=r"README\.md is not UTF-8 text .*; save it as UTF-8"):
            check(cascade)
    files.write_bytes(cascade / "README.md", CARD.encode("utf-8-sig"))
    with pytest.raises(HubError, match=r"README\.md begins with a byte-order mark; .* as plain UTF-8"):
        check(cascade)
    files.write_bytes(cascade / "README.md", CARD.replace("\n", "\r\n").encode())
    assert "README.md" in check(cascade)


def test_links_are_refused_and_ledgers_of_git_and_hf_stay_here(cascade, tmp_path):
    before = set(check(cascade))
    for name in (".git/config", ".cache/huggingface/x.metadata", ".DS_Store"):
        files.write_text(cascade / name, TOKEN)
    assert set(check(cascade)) == before
    files.write_text(tmp_path / "outside" / "secret", "x")
    for name, target in {"LICENSE": tmp_path / "outside" / "secret", "plots": tmp_path / "outside"}.items():
        (cascade / name).symlink_to(target)
        with pytest.raises(HubError, match=rf"{name} is a link, which may lead anywhere; put there what it leads to"):
            files_to_push(cascade)
        (cascade / name).unlink()


@pytest.mark.parametrize(
    "name", [".env", "WEIGHTS.PKL", "train.ipynb", "model.gguf", "modeling.py", "edge/modeling.py"]
)
def test_hidden_files_code_and_notebooks_are_no_part_of_a_cascade(cascade, name):
    files.write_text(cascade / name, "x")
    with pytest.raises(HubError, match=f"holds what is no part of a (cascade|student): {Path(name).name}"):
        check(cascade)


def test_code_that_a_config_names_is_refused(cascade):
    config = {"architectures": ["XForImageClassification"], "auto_map": {"AutoModel": "modeling.X"}}
    files.write_json(cascade / "edge" / "config.json", config)
    with pytest.raises(HubError, match=r"edge/config\.json names code to run \(auto_map\)"):
        check(cascade)


def test_a_wheel_that_cannot_be_read_is_a_sentence(tmp_path):
    files.write_bytes(tmp_path / "x.whl", b"PK\x03\x04 and nothing more")
    with pytest.raises(HubError, match=r"x\.whl is no wheel that can be read"):
        refuse_content("x.whl", tmp_path / "x.whl")
    whole = zipped(a_py=os.urandom(40), b_py=b"b = 1" * 40)
    refused = 0
    for at in range(len(whole)):  # whatever zipfile raises on it: zlib.error, EOFError, NotImplementedError ...
        files.write_bytes(tmp_path / "x.whl", whole[:at] + bytes([whole[at] ^ 0x19]) + whole[at + 1 :])
        with suppress(HubError):
            refuse_content("x.whl", tmp_path / "x.whl")
            refused -= 1
        refused += 1
    assert refused > len(whole) // 2


def test_rows_are_searched_to_their_depth():
    refuse_value("test.parquet", {"image": {"bytes": b"x", "path": "a.png"}, "messages": [{"content": "hf_x"}], "n": 1})
    for row in ({"image": {"bytes": TOKEN.encode()}}, {"messages": [{"content": [{"text": f"my {TOKEN}"}]}]}):
        with pytest.raises(HubError, match=r"test\.parquet holds an access token"):
            refuse_value("test.parquet", row)


def test_a_part_s_own_card_binds_the_cascade_s(cascade):
    files.write_text(cascade / "edge" / "README.md", CARD.replace("cc0-1.0", "cc-by-nc-4.0"))
    with pytest.raises(HubError, match=r"says cc0-1.0, but edge/README.md is cc-by-nc-4.0: non-commercial"):
        check(cascade)


@pytest.mark.parametrize("config", ["{", "[]", '"x"', '{"architectures": "X"}', '{"architectures": [3]}'])
def test_a_config_that_is_none_is_a_sentence(tmp_path, config):
    files.write_text(tmp_path / "config.json", config)
    with pytest.raises(InspectError):
        kind_of(tmp_path)
