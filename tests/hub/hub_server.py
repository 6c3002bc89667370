"""A hub on loopback: the part of the Hugging Face Hub's protocol that its client uses to push and to load.

Repositories live in memory. Every commit has its own id and stays readable; large files go through LFS; a repository
that one may not see answers as if it did not exist, as on the real one. Not there: xet, multipart uploads, pull requests.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".msgpack", ".wav")
DATE = "2026-01-01T00:00:00.000Z"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Blob:
    """One version of one file."""

    content: bytes
    lfs: bool

    @property
    def git_oid(self) -> str:
        """The id git gives to what it stores: the file itself, or the LFS pointer."""
        stored = self.content
        if self.lfs:
            lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.oid}", f"size {len(self.content)}")
            stored = "".join(f"{line}\n" for line in lines).encode()
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def oid(self) -> str:
        """What the hub uses as ETag: SHA-256 of LFS files, git's id of the others."""
        return sha256(self.content) if self.lfs else self.git_oid

    def entry(self, path: str) -> dict:
        """The file's line in a tree listing."""
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.git_oid}
        if self.lfs:
            entry["lfs"] = {"oid": self.oid, "size": len(self.content), "pointerSize": 134}
        return entry


@dataclass
class Repo:
    """Branches and tags point to commits, commits hold files, and LFS objects stay when no commit needs them."""

    private: bool = False
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, Blob], title: str) -> str:
        listing = sorted((path, blob.git_oid) for path, blob in files.items())
        sha = hashlib.sha1(repr((self.refs.get(branch), title, listing, len(self.log))).encode()).hexdigest()
        self.commits[sha], self.refs[branch] = dict(files), sha
        self.log.append((sha, title))
        return sha

    def sha(self, revision: str) -> str:
        sha = self.refs.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha


class HubError(Exception):
    """An error answer: status, the code that the client turns into an exception class, a text."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}


@dataclass
class Cut:
    """What befalls the next download of a file: after `after` bytes the line breaks, or stalls for good."""

    after: int
    stall: bool = False
    reached: threading.Event = field(default_factory=threading.Event)


class Hub:
    """The server. `with Hub() as hub:` runs it on a free port of the loopback interface.

    Attributes:
        endpoint: for `HF_ENDPOINT`.
        users: token -> user name.
        repos: (type, id) -> `Repo`, for tests to look into.
        requests: (method, path, Range header) of every request, in order.
        cuts: file name -> `Cut` for its next download.
    """

    def __init__(self) -> None:
        self.users = {"hf_alice": "alice", "hf_bob": "bob"}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.cuts: dict[str, Cut] = {}

    # --- running ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Hub:
        app = Starlette(routes=self._routes(), exception_handlers={HubError: self._error})
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the test hub did not start")
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)

    def asked(self, method: str, part: str) -> list[tuple[str, str, str | None]]:
        """The requests so far of this method with `part` in their path."""
        return [request for request in self.requests if request[0] == method and part in request[1]]

    def _routes(self) -> list[Route]:
        api, repo = "/api/{kind:kind}", "/api/{kind:kind}/{owner}/{name}"
        routes = [
            ("GET", "/api/whoami-v2", self._whoami),
            ("POST", "/api/validate-yaml", self._validate_yaml),
            ("POST", "/api/repos/create", self._create),
            ("GET", repo, self._info),
            ("GET", repo + "/revision/{revision:path}", self._info),
            ("GET", repo + "/refs", self._refs),
            ("GET", repo + "/commits/{revision}", self._commits),
            ("GET", repo + "/tree/{revision}", self._tree),
            ("GET", repo + "/tree/{revision}/{folder:path}", self._tree),
            ("POST", repo + "/branch/{branch:path}", self._branch),
            ("POST", repo + "/tag/{revision:path}", self._tag),
            ("POST", repo + "/preupload/{revision}", self._preupload),
            ("POST", repo + "/commit/{revision}", self._commit),
            ("PUT", "/lfs/{kind}/{owner}/{name}/{oid}", self._put),
            ("GET", "/cdn/{kind}/{owner}/{name}/{oid}/{file}", self._cdn),
        ]
        for prefix, kind in (("", "models"), ("/datasets", "datasets"), ("/spaces", "spaces")):
            routes += [
                ("POST", prefix + "/{owner}/{name}.git/info/lfs/objects/batch", self._for(kind, self._batch)),
                ("GET", prefix + "/{owner}/{name}/resolve/{revision}/{path:path}", self._for(kind, self._resolve)),
            ]
        del api
        return [Route(path, self._recorded(handler), methods=[method]) for method, path, handler in routes]
