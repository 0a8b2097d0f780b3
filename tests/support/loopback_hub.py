"""A small Hub on the loopback interface: the HTTP API of huggingface.co, as far as the real client uses it.

Clients are separate processes, because huggingface_hub reads its environment when it is imported. `Hub.environment`
points them here. Large files are answered with a redirect to another host name, as the Hub redirects to its CDN.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from running import ENVIRONMENT

USERS = {"hf_owner": "me", "hf_reader": "reader"}  # token → user
_LFS = (".safetensors", ".bin", ".png", ".pth")
_PAGE = 5  # entries per page of a listing; the Hub has 1,000
_LICENCES = ("apache-2.0", "mit", "creativeml-openrail-m", "openrail", "openrail++", "other")  # of the Hub's list


class Stored(NamedTuple):
    """A file of a commit: its content, and whether it is stored outside git."""

    content: bytes
    is_lfs: bool

    @property
    def oid(self) -> str:
        """The file's identity: SHA-256 of a large file, git's SHA-1 of others."""
        if self.is_lfs:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass
class Repository:
    """The commits of a repository, and its branches and tags."""

    kind: str  # "models" or "datasets"
    name: str
    is_gated: bool = False
    is_private: bool = False
    status: int | None = None  # an answer to all requests for this repository
    cut_at: list[int] = field(default_factory=list)  # of each next download of a large file: bytes before it breaks off
    commits: dict[str, dict[str, Stored]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, Stored], message: str, branch: str) -> str:
        text = f"{self.name} {len(self.commits)} {message}"
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.commits[oid] = files
        self.messages.append(message)
        self.refs[branch] = oid
        return oid

    def address(self, hub: "Hub") -> str:
        return f"{hub.url}/{'datasets/' if self.kind == 'datasets' else ''}{self.name}"

    def resolve(self, revision: str) -> str:
        oid = self.refs.get(revision, revision)
        if oid not in self.commits:
            raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return oid


class RefusalError(Exception):
    """An answer with an error, as the Hub gives it."""

    def __init__(self, status: int, code: str | None, message: str):
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Request(NamedTuple):
    """A line of the server's log."""

    method: str
    path: str
    host: str
    range: str | None
    user: str | None
    status: int


class Hub:
    """The repositories, and the log of all requests."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}  # large files by SHA-256
        self.log: list[Request] = []
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        port = self.http.server_address[1]
        self.url, self.cdn = f"http://127.0.0.1:{port}", f"http://localhost:{port}"

    def environment(self, home: Path, *, token: str | None = "hf_owner") -> dict[str, str]:
        """The environment of a client process with its own cache."""
        environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home)}
        environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1,localhost"}
        return environment | ({} if token is None else {"HF_TOKEN": token})

    def add(self, name: str, files: dict[str, bytes], *, kind: str = "models", **options: Any) -> Repository:
        """A repository with one commit."""
        repository = self.repositories[kind, name] = Repository(kind, name, **options)
        stored = {path: Stored(content, path.endswith(_LFS)) for path, content in files.items()}
        self.objects |= {file.oid: file.content for file in stored.values() if file.is_lfs}
        repository.commit(stored, "first", "main")
        return repository

    def files(self, name: str, *, kind: str = "models", revision: str = "main") -> dict[str, bytes]:
        """The content of a repository by path."""
        repository = self.repositories[kind, name]
        return {path: file.content for path, file in repository.commits[repository.resolve(revision)].items()}


@contextmanager
def loopback_hub() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.http.shutdown()
        hub.http.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):  # a client that was done closed its connection
            super().handle_one_request()

    @property
    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in USERS:
            raise RefusalError(401, None, "Invalid credentials in Authorization header")
        return USERS.get(token)

    def answer(self) -> None:
        body = self._body()
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        try:
            with self.hub.lock:
                status, headers, content = _route(self, url.path, query, body)
        except RefusalError as refusal:
            status, content = refusal.status, json.dumps({"error": refusal.message}).encode()
            headers = {"X-Error-Message": refusal.message} | ({"X-Error-Code": refusal.code} if refusal.code else {})
        self._send(status, headers | ({"Retry-After": "7"} if status == 429 else {}), content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        with suppress(RefusalError):
            line = Request(self.command, self.path, self.headers["Host"], self.headers.get("Range"), self.user, status)
            self.hub.log.append(line)
        cut = int(headers.pop("cut", len(content)))
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:cut])
        if cut < len(content):
            self.close_connection = True


for _method in ("GET", "HEAD", "POST", "PUT"):
    setattr(_Handler, f"do_{_method}", _Handler.answer)

Answer = tuple[int, dict[str, str], bytes]
_ID = r"(?P<name>[\w.-]+/[\w.-]+)"
_KIND = r"(?P<prefix>datasets/)?"


def _route(request: _Handler, path: str, query: dict[str, str], body: bytes) -> Answer:
    for method, pattern, function in _ROUTES:
        match = re.fullmatch(pattern, path)
        if match and request.command in method.split():
            names = match.groupdict()
            if "name" in names:
                kind = names.get("kind") or ("datasets" if names.get("prefix") else "models")
                writes = request.command in ("POST", "PUT")
                repository = _repository(request, kind, names["name"], writes=writes)
                return function(
                    request, repository, {name: unquote(text or "") for name, text in names.items()}, query, body
                )
            return function(request, names, body)
    raise RefusalError(404, None, f"no such page: {request.command} {path}")


def _repository(request: _Handler, kind: str, name: str, *, writes: bool) -> Repository:
    repository = request.hub.repositories.get((kind, name))
    if repository is not None and repository.status is not None:
        raise RefusalError(repository.status, None, "the test wants this status")
    owns = name.split("/")[0] == request.user
    if repository is None or (repository.is_private and not owns):
        raise RefusalError(404 if request.user else 401, "RepoNotFound", "Repository not found")
    if writes and request.user is None:
        raise RefusalError(401, None, "Invalid username or password.")
    if writes and not owns:
        raise RefusalError(403, None, f"you may not write to {name}")
    return repository


def _json(content: Any, status: int = 200, **headers: str) -> Answer:
    return status, {"Content-Type": "application/json", **headers}, json.dumps(content).encode()


def _create(request: _Handler, names: Any, body: bytes) -> Answer:
    wanted = json.loads(body)
    if request.user is None:
        raise RefusalError(401, None, "Invalid username or password.")
    owner = wanted.get("organization") or request.user
    if owner != request.user:
        raise RefusalError(403, None, f"You don't have the rights to create a model under the namespace {owner!r}.")
    kind, name = f"{wanted.get('type', 'model')}s", f"{owner}/{wanted['name']}"
    known = request.hub.repositories.get((kind, name))
    if known is not None and known.status is not None:
        raise RefusalError(known.status, None, "internal error")
    repository = known or Repository(kind, name, is_private=wanted.get("visibility") == "private")
    url = repository.address(request.hub)
    if known is not None:
        return _json({"error": "You already created this repo", "url": url}, 409)
    request.hub.repositories[kind, name] = repository
    repository.commit({}, "initial commit", "main")
    return _json({"url": url, "name": name})


def _validate_yaml(request: _Handler, names: Any, body: bytes) -> Answer:
    match = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
    if not match:
        return _json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    data = yaml.safe_load(match[1])
    known = data.get("license", "mit") in _LICENCES and re.fullmatch(_ID, data.get("base_model", "a/b"))
    wrong = [] if known else [{"message": '"license" or "base_model" is not valid'}]
    return _json({"errors": wrong, "warnings": []}, 400 if wrong else 200)


def _preupload(request: _Handler, repository: Repository, names: Any, query: Any, body: bytes) -> Answer:
    files = repository.commits[repository.resolve(names["revision"])]
    return _json({"files": [
        {
            "path": file["path"],
            "uploadMode": "lfs" if file["path"].endswith(_LFS) or file["size"] > 10 << 20 else "regular",
            "shouldIgnore": False,
            "oid": files[file["path"]].oid if file["path"] in files else None,
        }
        for file in json.loads(body)["files"]
    ]})  # fmt: skip


def _lfs_batch(request: _Handler, repository: Repository, names: Any, query: Any, body: bytes) -> Answer:
    def entry(wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["oid"] in request.hub.objects:
            return wanted
        upload = {"href": f"{request.hub.cdn}/upload/{wanted['oid']}"}
        verify = {"href": f"{repository.address(request.hub)}.git/info/lfs/verify"}
        return wanted | {"actions": {"upload": upload, "verify": verify}}

    return _json({"transfer": "basic", "objects": [entry(wanted) for wanted in json.loads(body)["objects"]]})


def _lfs_verify(request: _Handler, repository: Repository, names: Any, query: Any, body: bytes) -> Answer:
    wanted = json.loads(body)
    if len(request.hub.objects.get(wanted["oid"], b"")) != wanted["size"]:
        raise RefusalError(404, None, "the object was not uploaded")
    return _json({})


def _upload(request: _Handler, names: Any, body: bytes) -> Answer:
    if hashlib.sha256(body).hexdigest() != names["oid"]:
        raise RefusalError(400, None, "the content has another hash")
    request.hub.objects[names["oid"]] = body
    return 200, {}, b""


def _commit(request: _Handler, repository: Repository, names: Any, query: Any, body: bytes) -> Answer:
    parent = repository.resolve(names["revision"])
    files = dict(repository.commits[parent])
    lines = [json.loads(line) for line in body.splitlines()]
    for value in (line["value"] for line in lines if line["key"] == "header"):
        if value.get("parentCommit", parent) != parent:
            raise RefusalError(412, None, "A commit has happened since. Please refresh and try again.")
    for key, value in ((line["key"], line["value"]) for line in lines):
        if key == "file":
            files[value["path"]] = Stored(base64.b64decode(value["content"]), False)
        elif key == "lfsFile":
            if value["oid"] not in request.hub.objects:
                raise RefusalError(400, None, f"the object of {value['path']} was not uploaded")
            files[value["path"]] = Stored(request.hub.objects[value["oid"]], True)
    pull = f"refs/pr/{len(repository.refs)}" if query.get("create_pr") else None
    message = next(line["value"]["summary"] for line in lines if line["key"] == "header")
    oid = repository.commit(files, message, pull or names["revision"])
    url = repository.address(request.hub)
    answer = {"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}"}
    return _json(answer | ({"pullRequestUrl": f"{url}/discussions/1"} if pull else {}))


def _ref(request: _Handler, repository: Repository, names: Any, query: Any, body: bytes) -> Answer:
    """Create a branch, which is named in the address, or a tag, which is named in the body."""
    wanted = json.loads(body or b"{}")
    name, start = (wanted["tag"], names["revision"]) if "tag" in wanted else (names["revision"], "main")
    if name in repository.refs:
        return _json({"error": "Reference already exists"}, 409)
    repository.refs[name] = repository.resolve(start)
    return _json({})


def _info(request: _Handler, repository: Repository, names: Any, query: Any, body: bytes) -> Answer:
    oid = repository.resolve(names.get("revision") or "main")
    siblings = [{"rfilename": path} for path in repository.commits[oid]]
    flags = {"private": repository.is_private, "gated": "auto" if repository.is_gated else False, "disabled": False}
    return _json({"id": repository.name, "sha": oid, "siblings": siblings, "tags": [], **flags})


def _tree(request: _Handler, repository: Repository, names: Any, query: Any, body: bytes) -> Answer:
    files = repository.commits[repository.resolve(names["revision"])]
    folders = {str(parent) for path in files for parent in Path(path).parents if str(parent) != "."}
    entries: list[dict[str, Any]] = [{"type": "directory", "path": folder, "size": 0, "oid": ""} for folder in folders]
    for path, file in files.items():
        lfs = {"lfs": {"oid": file.oid, "size": len(file.content), "pointerSize": 134}} if file.is_lfs else {}
        entries.append({"type": "file", "path": path, "size": len(file.content), "oid": file.oid} | lfs)
    start = int(query.get("cursor", 0))
    address = f"{request.hub.url}{urlsplit(request.path).path}?recursive=True&cursor={start + _PAGE}"
    following = {"Link": f'<{address}>; rel="next"'} if start + _PAGE < len(entries) else {}
    return _json(sorted(entries, key=lambda entry: entry["path"])[start : start + _PAGE], 200, **following)


def _resolve(request: _Handler, repository: Repository, names: Any, query: Any, body: bytes) -> Answer:
    if repository.is_gated and request.user != repository.name.split("/")[0]:
        raise RefusalError(403 if request.user else 401, "GatedRepo", f"Access to {repository.name} is restricted.")
    oid = repository.resolve(names["revision"])
    file = repository.commits[oid].get(names["path"])
    if file is None:
        raise RefusalError(404, "EntryNotFound", "Entry not found")
    headers = {"X-Repo-Commit": oid, "ETag": f'"{file.oid}"'}
    if not file.is_lfs:
        return _part(request, file.content, headers)
    address = f"{request.hub.cdn}/cdn/{repository.kind}/{repository.name}/{file.oid}"
    linked = {"X-Linked-ETag": f'"{file.oid}"', "X-Linked-Size": str(len(file.content)), "Location": address}
    return 302, headers | linked, b""


def _cdn(request: _Handler, names: Any, body: bytes) -> Answer:
    if request.headers.get("Authorization"):
        raise RefusalError(400, None, "a token was sent to another host")
    cuts = request.hub.repositories[names["kind"], names["owner"]].cut_at
    cut = {"cut": str(cuts.pop(0))} if request.command == "GET" and cuts else {}
    return _part(request, request.hub.objects[names["oid"]], cut)


def _part(request: _Handler, content: bytes, headers: dict[str, str]) -> Answer:
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if not match:
        return 200, headers, content
    start, end = int(match[1]), int(match[2] or len(content) - 1)
    if start >= len(content):
        raise RefusalError(416, None, "the range is outside the file")
    part = content[start : end + 1]
    return 206, headers | {"Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(content)}"}, part


_API = rf"/api/(?P<kind>models|datasets)/{_ID}"
_ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("GET", r"/api/whoami-v2", lambda request, names, body: _json({"name": request.user, "type": "user", "orgs": []})),
    ("POST", r"/api/repos/create", _create),
    ("POST", r"/api/validate-yaml", _validate_yaml),
    ("POST", rf"{_API}/preupload/(?P<revision>[^/]+)", _preupload),
    ("POST", rf"{_API}/commit/(?P<revision>[^/]+)", _commit),
    ("POST", rf"{_API}/(branch|tag)/(?P<revision>[^/]+)", _ref),
    ("GET", rf"{_API}(/revision/(?P<revision>[^/]+))?", _info),
    ("GET", rf"{_API}/tree/(?P<revision>[^/]+)", _tree),
    ("POST", rf"/{_KIND}{_ID}\.git/info/lfs/objects/batch", _lfs_batch),
    ("POST", rf"/{_KIND}{_ID}\.git/info/lfs/verify", _lfs_verify),
    ("PUT", r"/upload/(?P<oid>[0-9a-f]{64})", _upload),
    ("GET HEAD", rf"/{_KIND}{_ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _resolve),
    ("GET HEAD", r"/cdn/(?P<kind>\w+)/(?P<owner>[\w.-]+/[\w.-]+)/(?P<oid>[0-9a-f]{64})", _cdn),
)
