#!/usr/bin/env python3
"""Real RabbitMQ brokers for tests: installed into a cached folder, started on free loopback ports, gone with their caller.

    rabbitmq.py install VERSION...             fill the cache (3.10, 4.0, 4.3); quick when it is there
    rabbitmq.py start VERSION [--tls] [--conf LINE]... [--owner PID] [--data DIR]
                                               prints one line of NAME=VALUE words: AMQP, AMQPS, CA_FILE, DIR, RABBITMQCTL, VERSION, PID
    rabbitmq.py stop DIR [--keep]              kill that broker; --keep leaves DIR for a later `start --data DIR` (same ports and data)
    rabbitmq.py with [VERSION]... [--tls] -- COMMAND...
                                               run COMMAND beside the named brokers (see with-brokers.sh) and give back its status

Each version is the package of one Debian release, unpacked by mmdebstrap from the mirror that apt itself uses, and run in a
PID and mount namespace of its own: the kernel ends the broker, its port mapper and its mounts together, whoever dies first.
A broker lives as long as its owner (by default the process that ran `start`). Blocks on downloads (install) and on the
broker's boot (start, at most BOOT_SECONDS). Needs root: without it, it runs itself through sudo.
"""

import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from ports import free_ports

# What each version is: the Debian release whose package it is, and what that package's version must start with.
RELEASES = {"3.10": ("bookworm", "3.10."), "4.0": ("trixie", "4.0."), "4.3": ("forky", "4.3.")}
# What runs where nobody names versions: the oldest and the newest.
BY_DEFAULT = ("3.10", "4.3")
# No package that needs its maintainer scripts to run: the folder is only unpacked, never configured.
PACKAGES = (
    "rabbitmq-server,base-files,dash,bash,coreutils,sed,grep,gawk,findutils,util-linux,procps,hostname,libc-bin,debianutils,passwd,login"
)
HOST_PACKAGES = {"mmdebstrap": "mmdebstrap", "unshare": "util-linux", "openssl": "openssl"}
BOOT_SECONDS = 120  # a node boots in 3 to 9 s on an idle machine; this one may be shared
BOOT_ATTEMPTS = 3  # a free port may be taken by somebody else between our look and the broker's bind
PREFIX = "asya-rabbitmq-"
PATH_INSIDE = "/usr/lib/rabbitmq/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Failure(Exception):
    """Something a person must act on; printed without a traceback."""


def say(text):
    print(f"rabbitmq: {text}", file=sys.stderr, flush=True)


# --- install ----------------------------------------------------------------------------------------------------------


def cache_folder():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "asya")


def root_folder(version):
    release, prefix = RELEASES[version]
    recipe = json.dumps([release, prefix, PACKAGES, "layout 1"])
    key = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    return os.path.join(cache_folder(), f"rabbitmq-{version}-{key}")


def need_host_packages():
    missing = sorted({package for tool, package in HOST_PACKAGES.items() if not shutil.which(tool)})
    if missing:
        say(f"installing with apt: {' '.join(missing)}")
        wait = ["-o", "DPkg::Lock::Timeout=600"]
        run_quietly(["apt-get", *wait, "update", "-q"])
        run_quietly(["apt-get", *wait, "install", "-y", "-q", "--no-install-recommends", *missing], DEBIAN_FRONTEND="noninteractive")


def run_quietly(command, **environment):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise Failure(f"{shlex.join(command)} failed:\n{done.stdout[-4000:]}")
    return done.stdout


def debian_mirror():
    """The address that apt takes Debian's main archive from."""
    listing = run_quietly(["apt-get", "indextargets", "Created-By: Packages", "--format", "$(REPO_URI) $(LABEL)"])
    for line in listing.splitlines():
        uri, _, label = line.partition(" ")
        if label == "Debian":
            return uri
    raise Failure("apt knows no Debian mirror: run `apt-get update` on a Debian machine")


def install(version):
    """Has the folder of this version; returns it."""
    root = root_folder(version)
    if os.path.exists(os.path.join(root, "installed")):
        return root
    need_host_packages()
    os.makedirs(cache_folder(), exist_ok=True)
    with open(root + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(os.path.join(root, "installed")):
            shutil.rmtree(root, ignore_errors=True)
            unpack(version, root)
    return root


def unpack(version, root):
    release, prefix = RELEASES[version]
    mirror = debian_mirror()
    say(f"installing RabbitMQ {version}: Debian {release}'s package from {mirror} into {root} (about 200 MB, half a minute)")
    # A release that is still in the making may have a Release file past its date; its signature is checked all the same.
    run_quietly(
        ["mmdebstrap", "--quiet", "--mode=root", "--variant=extract", f"--include={PACKAGES}"]
        + ["--aptopt=Acquire::Check-Valid-Until \"false\"", release, root, f"deb {mirror} {release} main"]
    )
    found = package_version(root)
    if not found.startswith(prefix):
        raise Failure(f"Debian {release} now has RabbitMQ {found}, not {version}: give RELEASES in {__file__} another release")
    etc = os.path.join(root, "etc")
    write(os.path.join(etc, "hosts"), "127.0.0.1 localhost\n")
    write(os.path.join(etc, "passwd"), "root:x:0:0:root:/root:/bin/sh\n")
    write(os.path.join(etc, "group"), "root:x:0:\n")
    awk = os.path.join(root, "usr/bin/awk")
    if not os.path.lexists(awk):
        os.symlink("gawk", awk)
    for name in ("null", "urandom", "random", "zero"):
        write(os.path.join(root, "dev", name), "")  # the machine's own device is mounted over it
    os.makedirs(os.path.join(root, "lab"))
    write(os.path.join(root, "installed"), found + "\n")
    say(f"installed RabbitMQ {found}")


def package_version(root):
    """What was unpacked; dpkg's own records are empty, because nothing was configured."""
    for name in os.listdir(os.path.join(root, "usr/lib/rabbitmq/lib")):
        if name.startswith("rabbitmq_server-"):
            return name.partition("-")[2]
    raise Failure(f"there is no RabbitMQ in {root}")


def write(path, text, mode=0o644):
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)


# --- start ------------------------------------------------------------------------------------------------------------


def make_certificates(folder):
    """A certificate authority and a server certificate for localhost and 127.0.0.1, valid for these tests only."""
    os.makedirs(folder)
    ca, key = os.path.join(folder, "ca.pem"), os.path.join(folder, "ca.key")
    request, server = os.path.join(folder, "server.csr"), os.path.join(folder, "server.pem")
    extensions = os.path.join(folder, "server.ext")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run_quietly(["openssl", "req", "-x509", *curve, "-days", "30", "-subj", "/CN=Asya test authority", "-keyout", key, "-out", ca]
                + ["-addext", "keyUsage=critical,keyCertSign"])
    run_quietly(["openssl", "req", *curve, "-subj", "/CN=localhost", "-keyout", os.path.join(folder, "server.key"), "-out", request])
    write(extensions, "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n")
    run_quietly(["openssl", "x509", "-req", "-in", request, "-CA", ca, "-CAkey", key, "-CAcreateserial", "-days", "30"]
                + ["-extfile", extensions, "-out", server])
    os.chmod(os.path.join(folder, "server.key"), 0o644)
    return ca


def configure(directory, version, root, tls, lines):
    """Fills the broker's folder: environment, configuration, cookie, certificates; returns what `start` prints."""
    amqp, amqps, dist, epmd = free_ports(4)
    for name in ("home", "mnesia", "log", "gen"):
        os.makedirs(os.path.join(directory, name), exist_ok=True)
    write(os.path.join(directory, "home/.erlang.cookie"), hashlib.sha256(os.urandom(32)).hexdigest(), 0o400)
    config = ["log.console = false", "disk_free_limit.absolute = 50MB", *lines]
    told = {"AMQP": f"amqp://guest:guest@127.0.0.1:{amqp}", "AMQPS": "", "CA_FILE": ""}
    if tls:
        told["CA_FILE"] = make_certificates(os.path.join(directory, "tls"))
        told["AMQPS"] = f"amqps://guest:guest@localhost:{amqps}"
        config += [
            f"listeners.ssl.1 = 127.0.0.1:{amqps}",
            "ssl_options.cacertfile = /lab/tls/ca.pem",
            "ssl_options.certfile = /lab/tls/server.pem",
            "ssl_options.keyfile = /lab/tls/server.key",
            "ssl_options.verify = verify_none",
        ]
    write(os.path.join(directory, "rabbitmq.conf"), "\n".join(config) + "\n")
    write(os.path.join(directory, "enabled_plugins"), "[].\n")
    environment = {
        "HOME": "/lab/home", "LANG": "C.UTF-8", "PATH": PATH_INSIDE,
        "RABBITMQ_NODENAME": f"rabbit{amqp}@localhost", "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": amqp, "RABBITMQ_DIST_PORT": dist,
        "ERL_EPMD_PORT": epmd, "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_MNESIA_BASE": "/lab/mnesia", "RABBITMQ_LOG_BASE": "/lab/log", "RABBITMQ_LOGS": "/lab/log/broker.log",
        "RABBITMQ_PID_FILE": "/lab/broker.pid", "RABBITMQ_ENABLED_PLUGINS_FILE": "/lab/enabled_plugins",
        "RABBITMQ_CONFIG_FILE": "/lab/rabbitmq.conf", "RABBITMQ_ADVANCED_CONFIG_FILE": "/lab/advanced.config",
        "RABBITMQ_CONF_ENV_FILE": "/lab/none.conf", "RABBITMQ_GENERATED_CONFIG_DIR": "/lab/gen",
        "RABBITMQ_FEATURE_FLAGS_FILE": "/lab/feature_flags",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }  # fmt: skip
    write(os.path.join(directory, "env"), "".join(f"export {name}={shlex.quote(str(value))}\n" for name, value in environment.items()))
    devices = " && ".join(f"mount --bind /dev/{name} {shlex.quote(root)}/dev/{name}" for name in ("null", "urandom", "random", "zero"))
    write(
        os.path.join(directory, "boot"),
        "#!/bin/sh\n# First process of the broker's namespaces: mounts what it needs, then becomes the broker.\nset -e\n"
        f"{devices}\nmount -t proc proc {shlex.quote(root)}/proc\nmount --bind {shlex.quote(directory)} {shlex.quote(root)}/lab\n"
        f"exec chroot {shlex.quote(root)} /bin/sh -c '. /lab/env; cd /lab; exec rabbitmq-server'\n",
        0o755,
    )
    told["DIR"] = directory
    told["RABBITMQCTL"] = os.path.join(directory, "rabbitmqctl")
    with open(os.path.join(root, "installed")) as file:
        told["VERSION"] = file.read().strip()
    write(os.path.join(directory, "told.json"), json.dumps({**told, "version": version}))
    return told


def write_rabbitmqctl(directory, pid):
    """A command that works inside the broker's namespaces, for whoever tests it."""
    write(
        os.path.join(directory, "rabbitmqctl"),
        "#!/bin/sh\n[ \"$(id -u)\" = 0 ] || exec sudo \"$0\" \"$@\"\n"
        f"exec nsenter --target {pid} --mount --pid --root --wd /bin/sh -c '. /lab/env; cd /lab; exec rabbitmqctl \"$@\"' rabbitmqctl \"$@\"\n",
        0o755,
    )


def speaks_amqp(port):
    """Whether something on this port answers AMQP's greeting with a method frame, as a booted broker does."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
    except OSError:
        return False


def start(version, tls=False, lines=(), owner=None, data=None):
    """Starts a broker that ends with the process `owner`; returns what is to be told of it."""
    root = install(version)
    sweep()
    if data:
        with open(os.path.join(data, "told.json")) as file:
            told = json.load(file)
        return boot(data, told, owner)
    for attempt in range(1, BOOT_ATTEMPTS + 1):
        directory = tempfile.mkdtemp(prefix=f"{PREFIX}{version}-")
        os.chmod(directory, 0o755)
        told = configure(directory, version, root, tls, lines)
        try:
            return boot(directory, told, owner)
        except Failure:
            stop(directory)
            if attempt == BOOT_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def boot(directory, told, owner):
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, "kept"))
    log = open(os.path.join(directory, "log/keeper.log"), "a")
    alive = hold(directory)  # from here on by the keeper too, for as long as it lives
    keeper = subprocess.Popen(
        [sys.executable, os.path.abspath(__file__), "keep", directory, str(owner)],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, pass_fds=[alive.fileno()],
    )  # fmt: skip
    write(os.path.join(directory, "keeper.pid"), str(keeper.pid))
    port = int(told["AMQP"].rsplit(":", 1)[1])
    deadline = time.monotonic() + BOOT_SECONDS
    while not speaks_amqp(port):
        if keeper.poll() is not None or time.monotonic() > deadline:
            raise Failure(f"RabbitMQ {told['VERSION']} did not start:\n{tail(directory)}")
        time.sleep(0.1)
    with open(os.path.join(directory, "broker.init")) as file:
        told["PID"] = file.read()
    write_rabbitmqctl(directory, told["PID"])
    return told


def tail(directory):
    text = ""
    for name in ("keeper.log", "stdout.log", "broker.log"):
        with contextlib.suppress(OSError), open(os.path.join(directory, "log", name), errors="replace") as file:
            text += f"--- {name}\n{file.read()[-2000:]}\n"
    return text


# --- keep and stop ----------------------------------------------------------------------------------------------------


def keep(directory, owner):
    """Runs the broker until it ends, its owner ends or `stop` asks; then nothing of it is left."""
    keeping = [False]
    ended_read, ended_write = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(ended_write, b"."))
    signal.signal(signal.SIGUSR1, lambda *_: (keeping.__setitem__(0, True), os.write(ended_write, b".")))
    with open(os.path.join(directory, "log/stdout.log"), "a") as out:
        # PID 1 of the new namespace is killed with `unshare`, and `unshare` with this process: then the kernel ends all the rest.
        unshare = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", os.path.join(directory, "boot")],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    children = f"/proc/{unshare.pid}/task/{unshare.pid}/children"
    while unshare.poll() is None:
        with open(children) as file:
            inner = file.read().split()
        if inner:
            write(os.path.join(directory, "broker.init"), inner[0])
            break
        time.sleep(0.01)
    waiting = [ended_read, os.pidfd_open(unshare.pid)]
    with contextlib.suppress(ProcessLookupError):
        if owner > 0:
            waiting.append(os.pidfd_open(owner))
        select.select(waiting, [], [])
    if unshare.poll() is None:
        unshare.kill()
    status = unshare.wait()
    if keeping[0]:
        write(os.path.join(directory, "kept"), "")
    elif status < 0:  # killed; what ended by itself leaves its logs for whoever started it
        shutil.rmtree(directory, ignore_errors=True)


def stop(directory, keep_data=False):
    """Ends the broker of this folder and waits until it is gone."""
    pid = keeper_of(directory)
    if pid:
        with contextlib.suppress(ProcessLookupError):
            waiting = os.pidfd_open(pid)
            os.kill(pid, signal.SIGUSR1 if keep_data else signal.SIGTERM)
            select.select([waiting], [], [], 60)
            os.close(waiting)
    if not keep_data:
        shutil.rmtree(directory, ignore_errors=True)


def keeper_of(directory):
    """The living keeper of a broker's folder, or None."""
    with contextlib.suppress(OSError, ValueError):
        with open(os.path.join(directory, "keeper.pid")) as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if os.fsencode(directory) in file.read().split(b"\0"):
                return pid
    return None


def hold(directory):
    """A lock by which `sweep` tells that a folder is in use, across PID namespaces too."""
    alive = open(os.path.join(directory, "alive"), "w")
    fcntl.flock(alive, fcntl.LOCK_EX)
    return alive


def sweep(prefix=PREFIX):
    """Removes the folders whose process was killed before it could."""
    for name in os.listdir(tempfile.gettempdir()):
        directory = os.path.join(tempfile.gettempdir(), name)
        if not name.startswith(prefix) or os.path.exists(os.path.join(directory, "kept")):
            continue
        with contextlib.suppress(OSError), open(os.path.join(directory, "alive")) as alive:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)


# --- with -------------------------------------------------------------------------------------------------------------


def run_with(versions, tls, lines, command):
    """Runs a command beside brokers and tells it of them by environment variables; returns its status."""
    started = {}
    try:
        before = time.monotonic()
        booting = {version: begin_start(version, tls, lines) for version in versions}
        for version, process in booting.items():
            line, _ = process.communicate()
            if process.returncode == 0:
                started[version] = dict(word.split("=", 1) for word in shlex.split(line))
        if len(started) < len(versions):
            raise Failure(f"of the brokers {', '.join(versions)} only these came up: {', '.join(started) or 'none'}")
        say(f"{', '.join('RabbitMQ ' + told['VERSION'] for told in started.values())} up after {time.monotonic() - before:.1f} s")
        with tempfile.TemporaryDirectory(prefix=f"{PREFIX}ca-") as folder, hold(folder):
            environment = {**os.environ, **describe(started, tls, folder)}
            child = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *command], env=environment)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, lambda number, _: child.send_signal(number))
            status = child.wait()
        return 128 - status if status < 0 else status
    finally:
        for told in started.values():
            subprocess.run(as_root("stop", told["DIR"]), check=True)


def describe(started, tls, folder):
    """The environment variables that tell a command of its brokers (with-brokers.sh lists them)."""
    told_by = {"ASYA_TEST_AMQP_URLS": " ".join(f"{version}={told['AMQP']}" for version, told in started.items())}
    for version, told in started.items():
        for name, key in (("RABBITMQCTL", "RABBITMQCTL"), ("BROKER_DIR", "DIR"), ("BROKER_PID", "PID")):
            told_by[f"ASYA_TEST_{name}_{version.replace('.', '_')}"] = told[key]
    if tls:
        told_by["ASYA_TEST_AMQPS_URLS"] = " ".join(f"{version}={told['AMQPS']}" for version, told in started.items())
        told_by["ASYA_TEST_CA_FILE"] = os.path.join(folder, "ca.pem")
        with open(told_by["ASYA_TEST_CA_FILE"], "w") as file:
            for told in started.values():
                with open(told["CA_FILE"]) as authority:
                    file.write(authority.read())
    return told_by


def as_root(*words):
    """The command that runs this script with these words, through sudo where this process is not root."""
    command = [sys.executable, os.path.abspath(__file__), *words]
    if os.geteuid():
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        command = ["sudo", "env", f"XDG_CACHE_HOME={cache}", *command]
    return command


def begin_start(version, tls, lines):
    words = ["start", version, "--owner", str(os.getpid())] + (["--tls"] if tls else [])
    for line in lines:
        words += ["--conf", line]
    return subprocess.Popen(as_root(*words), stdout=subprocess.PIPE, text=True)


# --- command line -----------------------------------------------------------------------------------------------------


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="verb", required=True)
    versions = sorted(RELEASES)
    one = commands.add_parser("install")
    one.add_argument("versions", nargs="+", choices=versions)
    one = commands.add_parser("start")
    one.add_argument("version", choices=versions)
    one.add_argument("--tls", action="store_true")
    one.add_argument("--conf", action="append", default=[], metavar="LINE", help="a line for rabbitmq.conf")
    one.add_argument("--owner", type=int, default=os.getppid(), help="the broker ends with this process; 0: with nobody")
    one.add_argument("--data", metavar="DIR", help="start again what `stop --keep` left there")
    one = commands.add_parser("stop")
    one.add_argument("directory")
    one.add_argument("--keep", action="store_true")
    one = commands.add_parser("with")
    one.add_argument("versions", nargs="*", choices=[*versions, []])
    one.add_argument("--tls", action="store_true")
    one.add_argument("--conf", action="append", default=[], metavar="LINE")
    one = commands.add_parser("keep", help="(internal)")
    one.add_argument("directory")
    one.add_argument("owner", type=int)
    return parser


def main():
    words, command = sys.argv[1:], []
    if words[:1] == ["with"]:
        if "--" not in words:
            raise Failure("say what to run: rabbitmq.py with [VERSION]... [--tls] -- COMMAND...")
        cut = words.index("--")
        words, command = words[:cut], words[cut + 1 :]
    given = arguments().parse_args(words)
    if given.verb == "with":
        return run_with(given.versions or list(BY_DEFAULT), given.tls, given.conf, command)
    if os.geteuid():
        extra = ["--owner", str(given.owner)] if given.verb == "start" and "--owner" not in words else []
        return subprocess.run(as_root(*words, *extra)).returncode
    if given.verb == "install":
        for version in given.versions:
            root = install(version)
            with open(os.path.join(root, "installed")) as file:
                print(f"{version}: RabbitMQ {file.read().strip()} in {root}")
    elif given.verb == "start":
        told = start(given.version, given.tls, given.conf, given.owner, given.data)
        print(" ".join(f"{name}={shlex.quote(value)}" for name, value in told.items() if name.isupper()))
    elif given.verb == "stop":
        stop(given.directory, given.keep)
    elif given.verb == "keep":
        keep(given.directory, given.owner)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        say(str(failure))
        sys.exit(1)
