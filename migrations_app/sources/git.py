"""Read a folder of a git repository at a commit, by the git command line, into a cache.

Nothing of a repository is ever executed or checked out by git: its objects are fetched, and the
files wanted are written out of them. Sources: git's documentation of fetch, ls-tree, cat-file and
of GIT_CONFIG_COUNT, GIT_ALLOW_PROTOCOL; OpenSSH's of StrictHostKeyChecking.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from shlex import quote
from urllib.parse import urlsplit

from migrations_app.engines.kinds import Revision
from opsconsole.exceptions import AdapterError
from opsconsole.formats import count, duration, one_line, size
from opsconsole.outgoing import CallPolicy, Deadline, resolve
from opsconsole.processes.process import Tool, allowed_environment
from opsconsole.url import split_url

REF = re.compile(r"(?!.*(?:\.\.|//|@\{))[A-Za-z0-9][\w./+-]{0,254}")
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
SCP_LIKE = re.compile(r"[\w.-]+@[\w.-]+:(?!//)[^\s]+")
REDIRECTED = re.compile(r"returned error: 30[12378]")
PORTS = {"ssh": 22, "http": 80, "https": 443}
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
# Which version of a tool a project pins stands in these, in a folder above the migrations.
VERSION_FILES = ("package.json", "package-lock.json", "pnpm-lock.yaml", "yarn.lock", "bun.lock")
VERSION_FILE_PARENTS = 3
MOST_FILES = 20_000
BATCH = 500
KEPT_CHECKOUTS = 50
HEARTBEAT_SECONDS = 20
MOST_OF_REASON = 500


@dataclass(frozen=True)
class Repository:
    """Where it is, what opens it (a token or a private key, "" for none), and the limits.

    `seconds` a command may take; bytes that the cache and the files read from it may take. The
    host has to be one that `policy` lets the console call.
    """

    url: str
    cache: Path
    secret: str = field(default="", repr=False)
    seconds: float = 60
    cache_bytes: int = 512_000_000
    folder_bytes: int = 64_000_000
    policy: CallPolicy = field(default_factory=CallPolicy)

    @property
    def place(self) -> Path:
        """Its folder in the cache: a bare repository, and what was read of each commit."""
        return self.cache / hashlib.sha256(self.url.encode()).hexdigest()[:20]


def check_url(url: str) -> None:
    """Raise AdapterError unless git can fetch from it and no password is written in it."""
    if SCP_LIKE.fullmatch(url):
        return
    parts = split_url(url)
    if parts.scheme not in {"https", "http", "ssh", "file"} or re.search(r"\s", url):
        raise AdapterError("give an https://, ssh:// or file:// address, or user@host:path")
    if parts.password:
        raise AdapterError("leave the password out of the address: the token has its own field")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise AdapterError("http:// is not encrypted: give an https:// address")
    if parts.scheme != "file" and not parts.hostname:
        raise AdapterError("the address names no host")


def check_ref(ref: str) -> None:
    """Raise AdapterError unless it can be the name of a branch or tag, or a whole commit id."""
    if not REF.fullmatch(ref):
        raise AdapterError(f"{ref!r} is not the name of a branch or tag, or a commit id")


def read_folder(
    repository: Repository, ref: str, folder: str, *, shown_ref: str = ""
) -> tuple[Path, Revision]:
    """The folder's files at the newest commit of `ref`, or at `ref` if it is a commit id.

    Fetches one commit deep. The revision names `shown_ref`, what led to a commit id, if given.
    Raises AdapterError for what is wrong, without the secret.
    """
    check_url(repository.url)
    check_ref(ref)
    inside = _inside(folder)
    with _locked(repository):
        commit = _known_commit(repository, ref) or _fetch(repository, ref)
        revision = _describe(repository, shown_ref or ref, commit)
        checkout = _written_out(repository, ref, commit, inside)
        _forget_old(repository)
    return checkout / inside, revision


def list_files(repository: Repository, ref: str) -> tuple[Revision, list[PurePosixPath]]:
    """The newest commit of `ref`, or of the repository's own branch for "", and all files in it.

    Raises AdapterError for what is wrong, without the secret.
    """
    check_url(repository.url)
    if ref:
        check_ref(ref)
    with _locked(repository):
        _prepare(repository)
        ref = ref or _own_branch(repository)
        commit = _fetch(repository, ref)
        listed = _git(repository, "ls-tree", "-r", "-z", "--name-only", "--full-tree", commit)
        paths = [PurePosixPath(path) for path in listed.split("\0") if path]
        return _describe(repository, ref, commit), paths


def _own_branch(repository: Repository) -> str:
    """What its HEAD names. Source: git's documentation of `ls-remote --symref`."""
    asked = ["ls-remote", "--symref", repository.url, "HEAD"]
    try:
        said = _git(repository, *asked, route=_route_to(repository))
    except AdapterError as error:
        raise _if_redirected(error) from error
    named = re.search(r"^ref: refs/heads/(\S+)\tHEAD$", said, re.MULTILINE)
    if named is None:
        raise AdapterError("it has no branch of its own: is it empty? Name a branch")
    check_ref(named[1])
    return named[1]


def _inside(folder: str) -> PurePosixPath:
    path = PurePosixPath(folder.strip("/") or ".")
    if ".." in path.parts or ".git" in path.parts or "\0" in folder:
        raise AdapterError(f"{folder!r} is not a folder inside the repository")
    return path


@contextmanager
def _locked(repository: Repository) -> Iterator[None]:
    """One process at a time works on a repository of the cache."""
    repository.place.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + repository.seconds
    with (repository.place / "lock").open("w") as file:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > deadline:
                raise AdapterError("another worker is still fetching this repository")
            time.sleep(0.1)
        yield


# -- fetching


def _known_commit(repository: Repository, ref: str) -> str:
    """The commit, where `ref` is one that is in the cache already; it cannot have changed."""
    if COMMIT.fullmatch(ref) and (repository.place / "git").exists():
        with suppress(AdapterError):
            return _git(repository, "cat-file", "-t", ref) and ref
    return ""


def _prepare(repository: Repository) -> None:
    """Its folder in the cache is there, and not too large."""
    bare = repository.place / "git"
    if bare.exists() and _size(bare) > repository.cache_bytes:
        shutil.rmtree(bare)
    if not bare.exists():
        _git(repository, "init", "--quiet", "--bare", str(bare), is_there=False)


def _fetch(repository: Repository, ref: str) -> str:
    _prepare(repository)
    name = f"refs/console/{hashlib.sha256(ref.encode()).hexdigest()[:20]}"
    route = _route_to(repository)
    try:
        _git(
            repository,
            "fetch",
            "--quiet",
            "--depth=1",
            "--no-tags",
            "--no-recurse-submodules",
            "--no-auto-maintenance",
            "--no-write-fetch-head",
            repository.url,
            f"+{ref}:{name}",
            route=route,
        )
    except AdapterError as error:
        if "couldn't find remote ref" in str(error) or "not our ref" in str(error):
            raise AdapterError(f"there is no branch, tag or commit {ref} in it") from error
        raise _if_redirected(error) from error
    return _git(repository, "rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}")


def _if_redirected(error: AdapterError) -> AdapterError:
    if REDIRECTED.search(str(error)):
        return AdapterError("it redirects: give the address that it leads to")
    return error


def _describe(repository: Repository, ref: str, commit: str) -> Revision:
    said = _git(repository, "log", "-1", "--no-show-signature", "--format=%an%x00%cI%x00%s", commit)
    author, moment, subject = said.split("\0", 2)
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        raise AdapterError(f"the date of {commit[:12]} cannot be read") from None
    return Revision(ref, commit, one_line(subject, 200), one_line(author, 100), at)


# -- where it is


@dataclass(frozen=True)
class _Route:
    """What has git connect to the address that was judged, whatever the name means by then."""

    settings: dict[str, str] = field(default_factory=dict)
    ssh_options: str = ""


def _route_to(repository: Repository) -> _Route:
    """Raises AdapterError for a host that may not be called or is not known in time.

    Sources: git's documentation of http.curloptResolve (2.37; an older one resolves again), curl's
    of CURLOPT_RESOLVE, OpenSSH's of HostKeyAlias.
    """
    scheme, host, port = _where(repository.url)
    if scheme == "file":
        return _Route()
    deadline = Deadline(repository.seconds)
    found = resolve(host, port, policy=repository.policy, deadline=deadline)
    if scheme == "ssh":
        known_as = host if port == PORTS["ssh"] else f"[{host}]:{port}"
        return _Route(ssh_options=f" -o HostName={found[0]} -o HostKeyAlias={quote(known_as)}")
    pinned = ",".join(f"[{one}]" if one.version == 6 else str(one) for one in found)
    return _Route({"http.curloptResolve": f"{host}:{port}:{pinned}"} if pinned != host else {})


def host_of(url: str) -> tuple[str, int]:
    """Host and port that an address leads to; it has to be one that `check_url` takes."""
    return _where(url)[1:]


def _where(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an address that was checked."""
    if SCP_LIKE.fullmatch(url):
        return "ssh", url.partition("@")[2].partition(":")[0], PORTS["ssh"]
    parts = split_url(url)
    return parts.scheme, parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0)


# -- writing the files out


def _written_out(repository: Repository, ref: str, commit: str, inside: PurePosixPath) -> Path:
    """A folder with the wanted files of the commit, made whole or not at all."""
    digest = hashlib.sha256(str(inside).encode()).hexdigest()[:8]
    made = repository.place / "commits" / f"{commit}-{digest}"
    if made.exists():
        os.utime(made)
        return made
    entries = _entries(repository, commit, inside)
    if not any(PurePosixPath(path).is_relative_to(inside) for path in entries):
        raise AdapterError(f"there is no folder {inside} in {ref} at {commit[:12]}")
    made.parent.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.parent, prefix="making-") as name:
        root = Path(name) / "files"
        root.mkdir()
        for path, content in _contents(repository, entries):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        root.rename(made)
    return made


def _entries(repository: Repository, commit: str, inside: PurePosixPath) -> dict[str, str]:
    """The object of each file wanted, by path. Raises AdapterError for links and too much."""
    above = [inside, *inside.parents][1 : VERSION_FILE_PARENTS + 1]
    wanted = [str(inside), *(str(folder / name) for folder in above for name in VERSION_FILES)]
    listed = _git(repository, "ls-tree", "-r", "-z", "-l", "--full-tree", commit, "--", *wanted)
    entries, total = {}, 0
    for line in filter(None, listed.split("\0")):
        about, path = line.split("\t", 1)
        mode, kind, sha, length = about.split()
        if mode == "120000":
            raise AdapterError(f"{path} is a symbolic link: put the file itself there")
        if kind != "blob":
            raise AdapterError(f"{path} is a submodule, which is not fetched")
        total += int(length)
        entries[path] = sha
    if total > repository.folder_bytes:
        raise AdapterError(
            f"{inside} holds {size(total)}; up to {size(repository.folder_bytes)} are read"
        )
    if len(entries) > MOST_FILES:
        raise AdapterError(
            f"{inside} holds {count(len(entries))} files; up to {count(MOST_FILES)} are read"
        )
    return entries


def _contents(repository: Repository, entries: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    paths = list(entries)
    for start in range(0, len(paths), BATCH):
        some = paths[start : start + BATCH]
        asked = "".join(f"{entries[path]}\n" for path in some).encode()
        answer = _git_bytes(repository, "cat-file", "--batch", given=asked)
        yield from zip(some, _objects(answer), strict=True)


def _objects(answer: bytes) -> Iterator[bytes]:
    """The objects that `git cat-file --batch` printed, each after a line that ends in its size."""
    place = 0
    while place < len(answer):
        end = answer.index(b"\n", place)
        start = end + 1
        place = start + int(answer[place:end].rsplit(b" ", 1)[1])
        yield answer[start:place]
        place += 1


def _forget_old(repository: Repository) -> None:
    made = sorted((repository.place / "commits").glob("*-*"), key=lambda path: path.stat().st_mtime)
    for path in made[:-KEPT_CHECKOUTS]:
        shutil.rmtree(path, ignore_errors=True)


# -- running git


def _git(
    repository: Repository, *words: str, is_there: bool = True, route: _Route | None = None
) -> str:
    said = _git_bytes(repository, *words, is_there=is_there, route=route)
    return said.decode(errors="replace").strip("\n")


def _git_bytes(
    repository: Repository,
    *words: str,
    given: bytes = b"",
    is_there: bool = True,
    route: _Route | None = None,
) -> bytes:
    """What git prints. Raises AdapterError with its last words, or for a limit it passed."""
    if not shutil.which("git"):
        raise AdapterError("git is not installed on this worker")
    place = [f"--git-dir={repository.place / 'git'}"] if is_there else []
    limits = _Limits(repository)
    lines: list[str] = []
    with _environment(repository, route or _Route()) as environment:
        tool = Tool(
            ["git", *place, *words],
            on_line=lines.append,
            is_stopping=limits.are_passed,
            environment=environment,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            grace_seconds=2,
            writes_to_it=bool(given),
        )
        with tool:
            if given:
                tool.stdin.write(given)
                tool.stdin.close()
            said = b"".join(tool.chunks())
            try:
                tool.finish()
            except AdapterError as error:
                raise AdapterError(limits.passed or _reason(lines) or str(error)) from error
    return said


class _Limits:
    """Whether a command took too long, or the cache grew too large meanwhile."""

    def __init__(self, repository: Repository) -> None:
        self.passed = ""
        self._repository = repository
        self._deadline = time.monotonic() + repository.seconds

    def are_passed(self) -> bool:
        repository = self._repository
        if time.monotonic() > self._deadline:
            self.passed = f"it was not read within {duration(repository.seconds)}"
        elif _size(repository.place / "git") > repository.cache_bytes:
            self.passed = f"one commit of it takes over {size(repository.cache_bytes)}"
        return bool(self.passed)


@contextmanager
def _environment(repository: Repository, route: _Route) -> Iterator[dict[str, str]]:
    """git without any configuration but ours, and the secret where no argument shows it."""
    settings = {"gc.auto": "0", "core.hooksPath": os.devnull, "http.followRedirects": "false"}
    settings |= route.settings
    environment = {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ALLOW_PROTOCOL": "https:http:ssh:file",
        "LC_ALL": "C",
    }
    known_hosts = repository.place / "known_hosts"
    ssh = (
        "ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=accept-new"
        f" -o UserKnownHostsFile={known_hosts}{route.ssh_options}"
    )
    with _key_file(repository.secret) as key:
        if key:
            ssh += f" -o IdentitiesOnly=yes -i {key}"
        elif repository.secret:
            user = urlsplit(repository.url).username or "x-access-token"
            words = base64.b64encode(f"{user}:{repository.secret}".encode()).decode()
            # Sent to this address only, not to where it may redirect.
            settings[f"http.{repository.url}.extraHeader"] = f"Authorization: Basic {words}"
        environment |= {"GIT_SSH_COMMAND": ssh, "GIT_CONFIG_COUNT": str(len(settings))}
        for number, (name, value) in enumerate(settings.items()):
            environment |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
        yield allowed_environment(**environment)


@contextmanager
def _key_file(secret: str) -> Iterator[str]:
    """The path of an anonymous file with the private key; "" when the secret is none."""
    if "PRIVATE KEY-----" not in secret:
        yield ""
        return
    descriptor = os.memfd_create("deploy-key", os.MFD_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, f"{secret.strip()}\n".encode())
        # ssh closes what it inherits: it opens the file through this process.
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _reason(lines: list[str]) -> str:
    said = [re.sub(r"^(?:fatal|error|remote): ", "", line) for line in lines if line.strip()]
    first = next((line for line in said if not line.startswith("Please make sure")), "")
    return one_line(first, MOST_OF_REASON)


def _size(folder: Path) -> int:
    """Bytes in the folder; files may come and go meanwhile."""
    total = 0
    for place, _folders, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += (Path(place) / name).stat().st_size
    return total
