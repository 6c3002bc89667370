"""A hub on loopback: the part of the Hugging Face Hub's protocol that its client uses to push and to load.

Repositories live in memory. Every commit has its own id and stays readable; large files go through LFS and are served
by redirection; a repository that one may not see answers as if it did not exist. All this is as on the real one.
Not there: xet, multipart uploads, pull requests, copies.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import NamedTuple

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".wav")
DATE = "2026-01-01T00:00:00.000Z"
PIECE = 1 << 16


class Request(NamedTuple):
    """What a client asked for."""

    method: str
    path: str
    range: str | None


@dataclass(frozen=True)
class Blob:
    """One version of one file."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_oid(self) -> str:
        """The id git gives to what it stores: the file itself, or the pointer to the LFS object."""
        stored = self.content
        if self.lfs:
            lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.sha256}", f"size {len(stored)}")
            stored = "".join(f"{line}\n" for line in lines).encode()
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid

    def entry(self, path: str) -> dict:
        """The file in a tree listing."""
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.git_oid}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}
        return entry


@dataclass
class Repo:
    """Branches and tags name commits, commits hold files; LFS objects stay though no commit needs them any more."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    def sha(self, revision: str) -> str:
        """The commit that a branch, a tag or a commit id names."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    def files(self, revision: str = "main") -> dict[str, Blob]:
        return self.commits[self.sha(revision)]

    def commit(self, branch: str, files: dict[str, Blob], title: str) -> str:
        """Add a commit on top of `branch`."""
        listing = sorted((path, blob.git_oid) for path, blob in files.items())
        identity = repr((self.branches.get(branch), len(self.commits), title, listing))
        sha = hashlib.sha1(identity.encode()).hexdigest()
        self.commits[sha], self.titles[sha], self.branches[branch] = files, title, sha
        return sha


class HubError(Exception):
    """An error answer, with the code that the client turns into an exception class."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message, **headers}


@dataclass
class Cut:
    """What befalls the next download of a file after `after` bytes: the line breaks, or nothing more comes."""

    after: int
    stall: bool = False
    reached: threading.Event = field(default_factory=threading.Event)


class Hub:
    """The server. `with Hub() as hub:` runs it in a thread, on two free ports: the hub's and its LFS store's.

    Attributes:
        endpoint: for `HF_ENDPOINT`.
        users: token -> user name.
        repos: (`"models"`, `"datasets"` or `"spaces"`, id) -> `Repo`.
        requests: every request so far.
        cuts: file name -> `Cut`, used up by the next download of a file of this name.
    """

    def __init__(self) -> None:
        self.users = {"hf_alice": "alice", "hf_bob": "bob"}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[Request] = []
        self.cuts: dict[str, Cut] = {}

    def __enter__(self) -> Hub:
        app = Starlette(routes=self._routes(), exception_handlers={HubError: self._answer_error})
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        # Two names of one host: some clients take a redirect to another port of the same name for one within the hub.
        ports = [each.getsockname()[1] for each in sockets]
        self.endpoint, self._store = f"http://127.0.0.1:{ports[0]}", f"http://localhost:{ports[1]}"
        self._thread = threading.Thread(target=self._server.run, args=(sockets,), daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the hub did not start")
            time.sleep(0.01)
        return self

    def __exit__(self, *_) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)

    def asked(self, method: str, part: str) -> list[Request]:
        """The requests so far of this method with `part` in their path."""
        return [request for request in self.requests if request.method == method and part in request.path]

    def model(self, repo_id: str) -> Repo:
        return self.repos["models", repo_id]

    # --- answering -------------------------------------------------------------------------------------------------

    def _routes(self) -> list[Route]:
        api = "/api/{kind}/{owner}/{name}"
        rows = [
            ("GET", "/api/whoami-v2", self._whoami),
            ("POST", "/api/validate-yaml", self._validate_yaml),
            ("POST", "/api/repos/create", self._create),
            ("GET", f"{api}/revision/{{revision:path}}", self._info),
            ("GET", f"{api}/refs", self._refs),
            ("GET", f"{api}/commits/{{revision:path}}", self._commits),
            ("GET", f"{api}/tree/{{revision}}", self._tree),
            ("POST", f"{api}/branch/{{branch:path}}", self._branch),
            ("POST", f"{api}/tag/{{revision:path}}", self._tag),
            ("POST", f"{api}/preupload/{{revision:path}}", self._preupload),
            ("POST", f"{api}/commit/{{revision:path}}", self._commit),
            ("GET", api, self._info),
            ("PUT", "/store/{kind}/{owner}/{name}/{oid}", self._upload),
            ("GET", "/store/{kind}/{owner}/{name}/{oid}/{file}", self._fetch),
        ]
        for prefix in ("", "/datasets", "/spaces"):
            rows.append(("POST", f"{prefix}/{{owner}}/{{name}}.git/info/lfs/objects/batch", self._lfs_batch))
            rows.append(("GET", f"{prefix}/{{owner}}/{{name}}/resolve/{{revision}}/{{path:path}}", self._resolve))
        return [Route(path, self._recorded(answer), methods=[method]) for method, path, answer in rows]

    def _recorded(self, answer):
        async def endpoint(request: HttpRequest) -> Response:
            self.requests.append(Request(request.method, request.url.path, request.headers.get("range")))
            return await answer(request)

        return endpoint

    async def _answer_error(self, request: HttpRequest, error: HubError) -> Response:
        return JSONResponse({"error": str(error)}, error.status, error.headers)

    def _user(self, request: HttpRequest) -> str | None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.users:
            raise HubError(401, "", "Invalid credentials in Authorization header")
        return self.users.get(token)

    def _repo(self, request: HttpRequest, write: bool = False) -> tuple[str, Repo]:
        """The type/id path and the repository that a request is about, if its user may see (or write) it."""
        owner, name = request.path_params["owner"], request.path_params["name"]
        first = request.url.path.split("/")[1]
        kind = request.path_params.get("kind", first if first in ("datasets", "spaces") else "models")
        repo, user = self.repos.get((kind, f"{owner}/{name}")), self._user(request)
        if repo is None or (repo.private and user != owner):
            raise HubError(401 if user is None else 404, "RepoNotFound", "Repository not found")
        if write and user != owner:
            raise HubError(403, "", f"You have no write access to {owner}/{name}")
        return f"{kind}/{owner}/{name}", repo

    # --- users and repositories ------------------------------------------------------------------------------------

    async def _whoami(self, request: HttpRequest) -> Response:
        user = self._user(request)
        if user is None:
            raise HubError(401, "", "Invalid username or password.")
        return JSONResponse({"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token"}})

    async def _create(self, request: HttpRequest) -> Response:
        asked, user = await request.json(), self._user(request)
        if user is None or asked.get("organization") not in (None, user):
            raise HubError(401 if user is None else 403, "", "You may not create a repository here")
        kind, repo_id = f"{asked.get('type', 'model')}s", f"{user}/{asked['name']}"
        path = repo_id if kind == "models" else f"{kind}/{repo_id}"
        answer = {"url": f"{self.endpoint}/{path}", "name": repo_id}
        if (kind, repo_id) in self.repos:
            return JSONResponse({"error": "You already created this repo", **answer}, 409)
        repo = Repo(private=asked.get("private") is True or asked.get("visibility") == "private")
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        repo.commit("main", {".gitattributes": Blob(attributes.encode(), lfs=False)}, "initial commit")
        self.repos[kind, repo_id] = repo
        return JSONResponse(answer)

    async def _info(self, request: HttpRequest) -> Response:
        path, repo = self._repo(request)
        sha = repo.sha(request.path_params.get("revision", "main"))
        kind, repo_id = path.split("/", 1)
        card = repo.commits[sha].get("README.md")
        info = {
            "id": repo_id,
            "author": request.path_params["owner"],
            "sha": sha,
            "private": repo.private,
            "lastModified": DATE,
            "tags": [],
            "siblings": [{"rfilename": name} for name in sorted(repo.commits[sha])],
            "cardData": _front_matter(card.content.decode()) if card else None,
        }
        return JSONResponse(info)

    async def _refs(self, request: HttpRequest) -> Response:
        _, repo = self._repo(request)

        def rows(kind: str, names: dict[str, str]) -> list[dict]:
            return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": sha} for n, sha in names.items()]

        return JSONResponse(
            {"branches": rows("heads", repo.branches), "tags": rows("tags", repo.tags), "converts": []}
        )

    async def _commits(self, request: HttpRequest) -> Response:
        _, repo = self._repo(request)
        repo.sha(request.path_params["revision"])
        rows = [{"id": s, "title": t, "message": "", "authors": [], "date": DATE} for s, t in repo.titles.items()]
        return JSONResponse(rows[::-1])

    async def _branch(self, request: HttpRequest) -> Response:
        _, repo = self._repo(request, write=True)
        branch, asked = request.path_params["branch"], json.loads(await request.body() or "{}")
        if branch in repo.branches:
            raise HubError(409, "", f"Reference already exists: {branch}")
        repo.branches[branch] = repo.sha(asked.get("startingPoint", "main"))
        return JSONResponse({})

    async def _tag(self, request: HttpRequest) -> Response:
        _, repo = self._repo(request, write=True)
        repo.tags[(await request.json())["tag"]] = repo.sha(request.path_params["revision"])
        return JSONResponse({})

    # --- uploads ---------------------------------------------------------------------------------------------------

    async def _validate_yaml(self, request: HttpRequest) -> Response:
        try:
            _front_matter((await request.json())["content"])
        except yaml.YAMLError as error:
            return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, 400)
        return JSONResponse({"errors": [], "warnings": []})

    async def _preupload(self, request: HttpRequest) -> Response:
        _, repo = self._repo(request, write=True)
        present = repo.files(request.path_params["revision"])
        rows = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                "shouldIgnore": False,
                "oid": present[file["path"]].etag if file["path"] in present else None,
            }
            for file in (await request.json())["files"]
        ]
        return JSONResponse({"files": rows})

    async def _lfs_batch(self, request: HttpRequest) -> Response:
        path, repo = self._repo(request, write=True)
        rows = []
        for wanted in (await request.json())["objects"]:
            row = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in repo.objects:
                row["actions"] = {"upload": {"href": f"{self._store}/store/{path}/{wanted['oid']}"}}
            rows.append(row)
        return JSONResponse({"transfer": "basic", "objects": rows})

    async def _upload(self, request: HttpRequest) -> Response:
        # Like a signed link: whoever has it may use it, and the client sends no token.
        params, content = request.path_params, await request.body()
        if hashlib.sha256(content).hexdigest() != params["oid"]:
            raise HubError(400, "", "the content does not have the promised SHA-256")
        self.repos[params["kind"], f"{params['owner']}/{params['name']}"].objects[params["oid"]] = content
        return Response()

    async def _commit(self, request: HttpRequest) -> Response:
        path, repo = self._repo(request, write=True)
        branch = request.path_params["revision"]
        files, title = dict(repo.files(branch)), ""
        for line in (await request.body()).splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit", repo.sha(branch)) != repo.sha(branch):
                    raise HubError(412, "", "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile":
                files[value["path"]] = Blob(repo.objects[value["oid"]], lfs=True)
            elif key == "deletedFile":
                del files[value["path"]]
            else:
                raise HubError(400, "", f"operation {key!r} is not supported by this hub")
        sha = repo.commit(branch, files, title)
        repo_path = path.removeprefix("models/")
        return JSONResponse({"commitOid": sha, "commitUrl": f"{self.endpoint}/{repo_path}/commit/{sha}"})

    # --- downloads -------------------------------------------------------------------------------------------------

    async def _tree(self, request: HttpRequest) -> Response:
        _, repo = self._repo(request)
        files = repo.files(request.path_params["revision"])
        return JSONResponse([blob.entry(path) for path, blob in sorted(files.items())])

    async def _resolve(self, request: HttpRequest) -> Response:
        repo_path, repo = self._repo(request)
        sha, path = repo.sha(request.path_params["revision"]), request.path_params["path"]
        blob = repo.commits[sha].get(path)
        if blob is None:
            raise HubError(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": sha})
        if not blob.lfs:
            return self._send(request, path, blob.content, {"X-Repo-Commit": sha, "ETag": f'"{blob.etag}"'})
        headers = {
            "X-Repo-Commit": sha,
            "X-Linked-Size": str(len(blob.content)),
            "X-Linked-ETag": f'"{blob.etag}"',
            "Location": f"{self._store}/store/{repo_path}/{blob.sha256}/{path.rsplit('/', 1)[-1]}",
        }
        return Response(status_code=302, headers=headers)

    async def _fetch(self, request: HttpRequest) -> Response:
        params = request.path_params
        content = self.repos[params["kind"], f"{params['owner']}/{params['name']}"].objects[params["oid"]]
        return self._send(request, params["file"], content, {"ETag": f'"{params["oid"]}"'})

    def _send(self, request: HttpRequest, path: str, content: bytes, headers: dict[str, str]) -> Response:
        status, start, stop = 200, 0, len(content)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if asked:
            status, start = 206, int(asked[1])
            stop = int(asked[2]) + 1 if asked[2] else stop
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        headers |= {"Accept-Ranges": "bytes", "Content-Length": str(stop - start)}
        cut = self.cuts.pop(path, None) if request.method == "GET" else None
        return StreamingResponse(_pieces(content[start:stop], cut), status, headers, "application/octet-stream")


async def _pieces(content: bytes, cut: Cut | None) -> AsyncIterator[bytes]:
    end = len(content) if cut is None else cut.after
    for start in range(0, end, PIECE):
        yield content[start : min(start + PIECE, end)]
    if cut is None:
        return
    cut.reached.set()
    if cut.stall:
        await asyncio.Event().wait()
    raise ConnectionAbortedError("cut by the test")


def _front_matter(text: str) -> dict | None:
    """The YAML header of a README."""
    parts = text.split("---\n", 2)
    return yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else None
