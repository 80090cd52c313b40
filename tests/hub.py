"""A Hub on loopback: the HTTP interface that huggingface_hub's client uses, in memory, with faults to switch on."""

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, RLock, Thread
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

USER, ORGANISATION = "tester", "acme"
TOKEN, READ_TOKEN = "hf_" + "w" * 34, "hf_" + "r" * 34  # made up; one may write
TYPES = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}
LFS = (".safetensors", ".bin", ".parquet", ".png", ".whl")  # as .gitattributes has it; other binary files go there too
LFS_ABOVE = 10_000_000  # bytes
PAGE = 7  # entries of a tree in one answer; the Hub gives 1,000
_REPO = r"(?P<name>[^/]+/[^/]+)"
_KIND = r"(?P<kind>models|datasets|spaces)"


@dataclass(frozen=True)
class File:
    """One version of a file: git's blob id (of the pointer where LFS keeps it), content, and whether LFS does."""

    oid: str
    content: bytes
    lfs: str | None = None

    def entry(self, path: str) -> dict[str, Any]:
        stored = {"lfs": {"oid": self.lfs, "size": len(self.content), "pointerSize": 134}} if self.lfs else {}
        commit = {"lastCommit": {"id": "0" * 40, "title": "commit", "date": _now()}, "securityFileStatus": None}
        return {"type": "file", "path": path, "size": len(self.content), "oid": self.oid} | stored | commit


@dataclass
class Repo:
    """A repository: commits (oid -> path -> file), refs, and the log of each ref, newest first."""

    kind: str
    name: str
    private: bool
    sdk: str | None = None
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, File], title: str, ref: str = "main") -> str:
        known = json.dumps([self.name, len(self.log), title, sorted((p, f.oid) for p, f in files.items())])
        oid = hashlib.sha1(known.encode()).hexdigest()
        self.commits[oid], self.refs[ref] = files, oid
        self.log.insert(0, {"id": oid, "title": title, "message": "", "date": _now(), "authors": [{"user": USER}]})
        return oid

    def at(self, revision: str) -> str | None:
        """The commit that a branch, a pull request, a tag or a commit's name means."""
        revision = unquote(revision)
        return {**self.tags, **self.refs}.get(revision, revision if revision in self.commits else None)


@dataclass
class Fault:
    """What befalls the next `times` requests whose `METHOD /path` contains `match`."""

    match: str
    times: int
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    reached: Event | None = None
    release: Event | None = None


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message}


class Hub:
    """The controls: repositories and requests as the server holds them, and faults."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []  # METHOD /path[ bytes=a-b] -> status
        self.faults: list[Fault] = []
        self.lock = RLock()
        self.endpoint = ""

    def fail(self, match: str, status: int, times: int = 1, retry_after: int = 0) -> None:
        """Answer `status` with Retry-After."""
        limit = {"RateLimit": f'"api";r=0;t={retry_after}'} if status == 429 else {}
        self.faults.append(Fault(match, times, status, {"Retry-After": str(retry_after), **limit}))

    def cut(self, match: str, after: int, times: int = 1) -> None:
        """Break the connection off after so many bytes of the file that is sent or received."""
        self.faults.append(Fault(match, times, cut_after=after))

    def stall(self, match: str) -> tuple[Event, Event]:
        """Hold a request back: the first event says that it came, the second lets it go on."""
        fault = Fault(match, 1, reached=Event(), release=Event())
        self.faults.append(fault)
        assert fault.reached
        assert fault.release
        return fault.reached, fault.release

    def fault(self, request: str) -> Fault | None:
        """The fault that a request runs into; one time of it is used up."""
        with self.lock:
            fault = next((f for f in self.faults if f.times and f.match in request), None)
            if fault:
                fault.times -= 1
            return fault

    def files(self, kind: str, name: str, revision: str = "main") -> dict[str, bytes]:
        """What a repository holds."""
        repo = self.repos[kind, name]
        return {path: file.content for path, file in repo.commits[repo.refs[revision]].items()}

    def titles(self, kind: str, name: str) -> list[str]:
        """The commits of a repository, newest first."""
        return [commit["title"] for commit in self.repos[kind, name].log]

    def count(self, match: str) -> int:
        """How many requests contain this."""
        return sum(match in request for request in self.requests)


@contextmanager
def serve() -> Iterator[Hub]:
    """A running server's controls."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        for fault in hub.faults:
            if fault.release:
                fault.release.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Say nothing; `Hub.requests` holds it."""

    def handle_any(self) -> None:
        """Answer a request: first the fault set for it, then the route's own answer."""
        fault = self.hub.fault(f"{self.command} {self.path}")
        if fault and fault.reached and fault.release:
            fault.reached.set()
            fault.release.wait(60)
        if fault and fault.cut_after is not None and self.command in ("PUT", "POST"):
            self.rfile.read(fault.cut_after)
            self.note("cut")
            self.break_off()
            return
        self.body = self.read_body()
        if fault and fault.status:
            self.send(fault.status, {"error": "switched on by the test"}, fault.headers)
            return
        try:
            self.route(fault.cut_after if fault else None)
        except Refused as refused:
            self.send(refused.status, {"error": str(refused)}, refused.headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def route(self, cut_after: int | None) -> None:
        parts = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        for method, pattern, answer in ROUTES:
            found = re.fullmatch(pattern, parts.path)
            if found and self.command in method.split("|"):
                answer(self, found, cut_after) if answer in (_resolve, _cdn) else answer(self, found)
                return
        raise Refused(404, "NotFound", f"no route for {self.command} {parts.path}")

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    def note(self, status: Any) -> None:
        wanted = f" {self.headers['Range']}" if self.headers.get("Range") else ""
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {self.path}{wanted} -> {status}")

    def break_off(self) -> None:
        self.close_connection = True
        self.connection.close()

    def send(self, status: int, content: Any = b"", headers: dict[str, str] | None = None) -> None:
        """Send bytes as they are, anything else as JSON."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        self.send_bytes(status, body, {"Content-Type": kind} | (headers or {}))

    def send_bytes(self, status: int, body: bytes, headers: dict[str, str], cut_after: int | None = None) -> None:
        self.note(status)
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body if cut_after is None else body[:cut_after])
        if cut_after is not None:
            self.wfile.flush()
            self.break_off()

    def may_write(self) -> bool | None:
        """Whether the request's token may write; None without a token."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in (TOKEN, READ_TOKEN):
            raise Refused(401, "", "Invalid credentials in Authorization header")
        return token == TOKEN if token else None

    def repo(self, found: re.Match[str], write: bool = False) -> Repo:
        kind, name = found.groupdict().get("kind") or "models", unquote(found["name"])
        may = self.may_write()
        repo = self.hub.repos.get((kind.rstrip("/"), name))
        if repo is None or (repo.private and may is None):
            raise Refused(404 if may is not None else 401, "RepoNotFound", "Repository not found")
        proposes = self.query.get("create_pr") == "1"
        if write and not (may and (proposes or name.split("/")[0] in (USER, ORGANISATION))):
            raise Refused(401 if may is None else 403, "", "This token may not write here.")
        return repo

    def files(self, found: re.Match[str], repo: Repo) -> tuple[str, dict[str, File]]:
        oid = repo.at(found["revision"])
        if oid is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {found['revision']}")
        return oid, repo.commits[oid]


def _who(handler: _Handler, found: re.Match[str]) -> None:
    if handler.may_write() is None:
        raise Refused(401, "", "Invalid username or password.")
    access = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
    orgs = [{"type": "org", "name": ORGANISATION}]
    handler.send(200, {"type": "user", "id": "1", "name": USER, "fullname": USER, "orgs": orgs, "auth": access})


def _create(handler: _Handler, found: re.Match[str]) -> None:
    asked = handler.json()
    if not handler.may_write() or asked.get("organization") not in (None, USER, ORGANISATION):
        raise Refused(401 if handler.may_write() is None else 403, "", "This token may not create a repository.")
    kind = (asked.get("type") or "model") + "s"
    if kind == "spaces" and not asked.get("sdk"):
        raise Refused(400, "", "sdk is required for a Space")
    name = f"{asked.get('organization') or USER}/{asked['name']}"
    url = f"{handler.hub.endpoint}/{TYPES[kind]}{name}"
    with handler.hub.lock:
        if (kind, name) in handler.hub.repos:
            handler.send(409, {"error": "You already created this repo", "url": url})
            return
        repo = Repo(kind, name, asked.get("visibility") == "private" or bool(asked.get("private")), asked.get("sdk"))
        repo.commit({".gitattributes": _blob(b"*.parquet filter=lfs\n")}, "initial commit")
        handler.hub.repos[kind, name] = repo
    handler.send(200, {"url": url, "name": name, "id": name})


def _delete(handler: _Handler, found: re.Match[str]) -> None:
    asked = handler.json()
    key = (asked.get("type") or "model") + "s", f"{asked.get('organization') or USER}/{asked['name']}"
    if not handler.may_write():
        raise Refused(403, "", "This token may not delete a repository.")
    if handler.hub.repos.pop(key, None) is None:
        raise Refused(404, "RepoNotFound", "Repository not found")
    handler.send(200)


def _preupload(handler: _Handler, found: re.Match[str]) -> None:
    _, there = handler.files(found, handler.repo(found, write=True))
    modes = [
        {
            "path": file["path"],
            "uploadMode": "lfs" if file["path"].endswith(LFS) or _large_or_binary(file) else "regular",
            "shouldIgnore": False,
            "oid": (there[file["path"]].lfs or there[file["path"]].oid) if file["path"] in there else None,
        }
        for file in handler.json()["files"]
    ]
    handler.send(200, {"files": modes})


def _large_or_binary(file: dict[str, Any]) -> bool:
    return file["size"] > LFS_ABOVE or b"\0" in base64.b64decode(file["sample"])


def _batch(handler: _Handler, found: re.Match[str]) -> None:
    handler.repo(found)
    if not handler.may_write():  # who may propose may send; the commit decides
        raise Refused(403, "", "This token may not write here.")
    root = handler.hub.endpoint
    objects = []
    for one in handler.json()["objects"]:
        actions = {"upload": {"href": f"{root}/_lfs/{one['oid']}"}, "verify": {"href": f"{root}/_lfs_verify"}}
        objects.append(one if one["oid"] in handler.hub.objects else one | {"actions": actions})
    handler.send(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})


def _store(handler: _Handler, found: re.Match[str]) -> None:
    if hashlib.sha256(handler.body).hexdigest() != found["oid"]:
        raise Refused(400, "", "the content has another SHA-256")
    handler.hub.objects[found["oid"]] = handler.body
    handler.send(200)


def _verify(handler: _Handler, found: re.Match[str]) -> None:
    asked = handler.json()
    if len(handler.hub.objects.get(asked["oid"], b"")) != asked["size"]:
        raise Refused(404, "EntryNotFound", "not stored")
    handler.send(200)


def _commit(handler: _Handler, found: re.Match[str]) -> None:
    repo = handler.repo(found, write=True)
    with handler.hub.lock:
        oid, files = handler.files(found, repo)
        new, title = dict(files), ""
        for line in map(json.loads, handler.body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, oid):
                    raise Refused(412, "", "A commit has happened since. Please refresh and try again.")
            else:
                CHANGES[line["key"]](handler.hub, new, value)
        proposed = handler.query.get("create_pr") == "1"
        number = 1 + sum(ref.startswith("refs/pr/") for ref in repo.refs)
        ref = f"refs/pr/{number}" if proposed else unquote(found["revision"])
        made = repo.commit(new, title, ref)
    url = f"{handler.hub.endpoint}/{TYPES[repo.kind]}{repo.name}"
    answer = {"success": True, "commitOid": made, "commitUrl": f"{url}/commit/{made}", "hookOutput": ""}
    handler.send(200, answer | ({"pullRequestUrl": f"{url}/discussions/{number}"} if proposed else {}))


def _put_file(hub: Hub, files: dict[str, File], value: dict[str, Any]) -> None:
    files[value["path"]] = _blob(base64.b64decode(value["content"]))


def _put_lfs(hub: Hub, files: dict[str, File], value: dict[str, Any]) -> None:
    content = hub.objects[value["oid"]]
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{value['oid']}\nsize {len(content)}\n"
    files[value["path"]] = File(_blob(pointer.encode()).oid, content, value["oid"])


def _drop_file(hub: Hub, files: dict[str, File], value: dict[str, Any]) -> None:
    if files.pop(value["path"], None) is None:
        raise Refused(404, "EntryNotFound", "A file with this name doesn't exist")


CHANGES: dict[str, Callable] = {"file": _put_file, "lfsFile": _put_lfs, "deletedFile": _drop_file}


def _info(handler: _Handler, found: re.Match[str]) -> None:
    repo = handler.repo(found)
    revision = found.groupdict().get("revision") or "main"
    oid = repo.at(revision)
    if oid is None:
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    files = repo.commits[oid]
    handler.send(200, {
        "_id": "1", "id": repo.name, "author": repo.name.split("/")[0], "sha": oid, "private": repo.private,
        "gated": False, "disabled": False, "createdAt": _now(), "lastModified": _now(), "downloads": 0, "likes": 0,
        "tags": [], "cardData": _card(files), "sdk": repo.sdk,
        "siblings": [_sibling(path, file, "blobs" in handler.query) for path, file in files.items()],
    })  # fmt: skip


def _sibling(path: str, file: File, sized: bool) -> dict[str, Any]:
    """A file of a repository's info; its size is told to those who ask."""
    lfs = {"lfs": {"sha256": file.lfs, "size": len(file.content), "pointerSize": 134}} if file.lfs else {}
    return {"rfilename": path} | ({"size": len(file.content), "blobId": file.oid, **lfs} if sized else {})


def _tree(handler: _Handler, found: re.Match[str]) -> None:
    _, files = handler.files(found, handler.repo(found))
    inside = unquote(found["path"] or "").strip("/")
    start, deep = f"{inside}/" if inside else "", handler.query.get("recursive", "").lower() in ("1", "true")
    below = {path.removeprefix(start): path for path in files if path.startswith(start)}
    if inside and not below:
        raise Refused(404, "EntryNotFound", f"{inside} does not exist")
    folders = {"/".join(short.split("/")[:n]) for short in below for n in range(1, short.count("/") + 1)}
    shown = [_folder(start + folder) for folder in sorted(folders) if deep or "/" not in folder]
    every = shown + [files[path].entry(path) for short, path in below.items() if deep or "/" not in short]
    at = int(handler.query.get("cursor", 0))
    more = handler.path.split("&cursor=")[0] + f"&cursor={at + PAGE}"
    link = {"Link": f'<{handler.hub.endpoint}{more}>; rel="next"'} if every[at + PAGE :] else {}
    handler.send(200, every[at : at + PAGE], link)


def _paths(handler: _Handler, found: re.Match[str]) -> None:
    _, files = handler.files(found, handler.repo(found))
    asked = handler.json() if "json" in handler.headers["Content-Type"] else parse_qs(handler.body.decode())
    paths = asked.get("paths", [])
    entries = [files[path].entry(path) for path in paths if path in files]
    folders = [path.rstrip("/") for path in paths if any(p.startswith(path.rstrip("/") + "/") for p in files)]
    handler.send(200, entries + [_folder(path) for path in folders])


def _refs(handler: _Handler, found: re.Match[str]) -> None:
    refs = handler.repo(found).refs
    branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in refs.items()]
    tags = [
        {"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid}
        for name, oid in handler.repo(found).tags.items()
    ]
    handler.send(200, {"branches": branches, "converts": [], "tags": tags})


def _branch(handler: _Handler, found: re.Match[str]) -> None:
    repo, start = handler.repo(found, write=True), handler.json().get("startingPoint", "main")
    if found["branch"] in repo.refs:
        raise Refused(409, "", "Reference already exists")
    if repo.at(start) is None:
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {start}")
    repo.refs[unquote(found["branch"])] = str(repo.at(start))
    handler.send(200)


def _tag(handler: _Handler, found: re.Match[str]) -> None:
    repo, tag = handler.repo(found, write=True), handler.json()["tag"]
    if tag in repo.tags:
        raise Refused(409, "", "Tag reference exists already")
    repo.tags[tag], _ = handler.files(found, repo)
    handler.send(200)


def _log(handler: _Handler, found: re.Match[str]) -> None:
    handler.send(200, handler.repo(found).log)


def _resolve(handler: _Handler, found: re.Match[str], cut_after: int | None) -> None:
    oid, files = handler.files(found, handler.repo(found))
    file = files.get(unquote(found["path"]))
    if file is None:
        raise Refused(404, "EntryNotFound", "Entry not found")
    headers = {"X-Repo-Commit": oid, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
    if file.lfs:
        where = f"{handler.hub.endpoint}/_cdn/{file.lfs}?filename={quote(found['path'])}"
        linked = {"X-Linked-Etag": f'"{file.lfs}"', "X-Linked-Size": str(len(file.content)), "Location": where}
        handler.send_bytes(302, b"", headers | linked)
    else:
        _send_part(handler, file.content, headers, cut_after)


def _cdn(handler: _Handler, found: re.Match[str], cut_after: int | None) -> None:
    """An object of LFS, as the Hub's content network gives it: to whoever has the address, without a token."""
    content = handler.hub.objects[found["oid"]]
    _send_part(handler, content, {"ETag": f'"{found["oid"]}"', "Accept-Ranges": "bytes"}, cut_after)


def _send_part(handler: _Handler, content: bytes, headers: dict[str, str], cut_after: int | None) -> None:
    """A file, or the range of it that is asked for."""
    status, headers = 200, headers | {"Content-Type": "application/octet-stream"}
    if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", "")):
        first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        content, status = content[first : last + 1], 206
    handler.send_bytes(status, content, headers, cut_after)


def _card(files: dict[str, File]) -> dict[str, Any]:
    readme = files["README.md"].content.decode() if "README.md" in files else ""
    return (yaml.safe_load(readme.split("---")[1]) or {}) if readme.startswith("---") else {}


def _folder(path: str) -> dict[str, Any]:
    commit = {"id": "0" * 40, "title": "commit", "date": _now()}
    return {"type": "directory", "path": path, "oid": _blob(path.encode()).oid, "size": 0, "lastCommit": commit}


def _blob(content: bytes) -> File:
    return File(hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(), content)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


_API, _AT = rf"/api/{_KIND}/{_REPO}", r"(?P<revision>[^/]+)"
ROUTES: list[tuple[str, str, Callable]] = [
    ("GET", r"/api/whoami-v2", _who),
    ("GET", r"/api/agent-harnesses", lambda h, _: h.send(200, {"standardEnvVars": [], "harnesses": {}})),
    ("POST", r"/api/validate-yaml", lambda h, _: h.send(200, {"errors": [], "warnings": []})),
    ("POST", r"/api/repos/create", _create),
    ("DELETE", r"/api/repos/delete", _delete),
    ("POST", rf"{_API}/preupload/{_AT}", _preupload),
    ("POST", rf"/(?P<kind>datasets/|spaces/)?{_REPO}\.git/info/lfs/objects/batch", _batch),
    ("PUT", r"/_lfs/(?P<oid>\w+)", _store),
    ("POST", r"/_lfs_verify", _verify),
    ("POST", rf"{_API}/commit/{_AT}", _commit),
    ("GET", rf"{_API}/auth-check/write", lambda h, found: h.send(200, {"name": h.repo(found, write=True).name})),
    ("GET", rf"{_API}(/revision/{_AT})?", _info),
    ("GET", rf"{_API}/tree/{_AT}(?P<path>/.*)?", _tree),
    ("POST", rf"{_API}/paths-info/{_AT}", _paths),
    ("GET", rf"{_API}/refs", _refs),
    ("GET", rf"{_API}/commits/{_AT}", _log),
    ("POST", rf"{_API}/branch/(?P<branch>[^/]+)", _branch),
    ("POST", rf"{_API}/tag/{_AT}", _tag),
    ("GET|HEAD", r"/_cdn/(?P<oid>\w+)", _cdn),
    ("GET|HEAD", rf"/(?P<kind>datasets/|spaces/)?{_REPO}/resolve/{_AT}/(?P<path>.+)", _resolve),
]  # fmt: skip
