"""A small hub on this machine: the addresses that `datasets` asks for, answered as the real one answers."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
    """Serves dataset repositories, each a mapping of file names to contents, until it is closed.

    Args:
        repositories: of datasets, by `OWNER/NAME`; what is changed in them is served as a new commit.
        models: repositories of models, as `repositories`; single files can be fetched.
        gated: repositories that may not be read.
        answers: requests after which a proxy answers in its stead, with 403; None: it never does.
    """

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.models: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.answers: int | None = None
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                hub.requests.append(f"{self.command} {self.path}")
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, headers, content = hub._answer(unquote(urlsplit(self.path).path), body)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = answer

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path, body):
        if self.answers == 0:
            return 403, {}, b"Forbidden"
        if self.answers is not None:
            self.answers -= 1
        parts = path.removeprefix("/api").strip("/").split("/")
        if parts == [""]:
            return 200, {}, b""
        if "/".join(parts[:2]) in self.models:
            return _file_of(self.models["/".join(parts[:2])], "/".join(parts[4:]))
        if parts[0] != "datasets":
            return 404, {}, b""
        name = "/".join(parts[1:3])
        if name in self.gated:
            return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}, b""
        if name not in self.repositories:
            return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b""
        files = self.repositories[name]
        if path.startswith("/api/"):
            return 200, {}, json.dumps(_described(files, _commit(files), name, parts[3:], body)).encode()
        return _file_of(files, "/".join(parts[5:]))


def _commit(files):
    return hashlib.sha1(b"".join(key.encode() + files[key] for key in sorted(files))).hexdigest()


def _file_of(files, name):
    if name not in files:
        return 404, {"X-Repo-Commit": _commit(files), "X-Error-Code": "EntryNotFound"}, b""
    etag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
    return 200, {"X-Repo-Commit": _commit(files), "ETag": etag}, files[name]


def _described(files, commit, name, asked, body):
    if asked[:1] == ["tree"]:
        folder = "/".join(asked[2:])
        below = [file for file in files if file.startswith(f"{folder}/" if folder else "")]
        folders = {file.rsplit("/", 1)[0] for file in below if "/" in file.removeprefix(f"{folder}/")}
        return [*map(_folder, sorted(folders)), *(_file(file, files[file]) for file in below)]
    if asked[:1] == ["paths-info"]:
        return [_file(file, files[file]) for file in json.loads(body)["paths"] if file in files]
    return {"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files], "tags": []}


def _file(name, content):
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


def _folder(name):
    return {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest()}
