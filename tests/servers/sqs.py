#!/usr/bin/env python3
"""Servers that speak SQS's API, for tests: installed into a cached folder, started on free loopback ports, gone with their caller.

    sqs.py install [NAME]...            fill the cache (elasticmq, ministack); quick when it is there
    sqs.py with [NAME]... -- COMMAND... run COMMAND beside them (see with-brokers.sh) and give back its status

ElasticMQ comes from Maven, ministack from PyPI. Both keep everything in memory. A server is a child of this process and
dies with it, however that ends. Blocks on downloads (install) and on the servers' start (at most BOOT_SECONDS).
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from ports import free_ports
from rabbitmq import Failure, cache_folder, hold, run_quietly, sweep, write

VERSIONS = {"elasticmq": "1.7.1", "ministack": "1.5.33"}
HOST_PACKAGES = {"java": "default-jre-headless", "mvn": "maven"}
BOOT_SECONDS = 120  # they start in 1 to 7 s on an idle machine; this one may be shared
BOOT_ATTEMPTS = 3  # a free port may be taken by somebody else between our look and the server's bind
PREFIX = "asya-sqs-"

ELASTICMQ_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>asya.tests</groupId><artifactId>elasticmq</artifactId><version>1</version>
  <dependencies><dependency>
    <groupId>org.elasticmq</groupId><artifactId>elasticmq-server_2.13</artifactId><version>{VERSIONS["elasticmq"]}</version>
  </dependency></dependencies>
</project>
"""
ELASTICMQ_CONF = """include classpath("application.conf")
node-address {{ protocol = http, host = 127.0.0.1, port = {port}, context-path = "" }}
rest-sqs {{ enabled = true, bind-port = {port}, bind-hostname = "127.0.0.1", sqs-limits = strict }}
rest-stats {{ enabled = false }}
generate-node-address = false
queues-storage.enabled = false
"""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def say(text):
    print(f"sqs: {text}", file=sys.stderr, flush=True)


def die_with_parent():
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


# --- install ----------------------------------------------------------------------------------------------------------


def folder_of(name):
    return os.path.join(cache_folder(), f"{name}-{VERSIONS[name]}")


def install(name):
    """Has the folder of this server; returns it."""
    folder = folder_of(name)
    if os.path.exists(os.path.join(folder, "installed")):
        return folder
    os.makedirs(cache_folder(), exist_ok=True)
    with open(folder + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(os.path.join(folder, "installed")):
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder)
            say(f"installing {name} {VERSIONS[name]} into {folder}")
            {"elasticmq": install_elasticmq, "ministack": install_ministack}[name](folder)
            write(os.path.join(folder, "installed"), VERSIONS[name] + "\n")
    return folder


def need_java():
    missing = sorted({package for tool, package in HOST_PACKAGES.items() if not shutil.which(tool)})
    if missing:
        say(f"installing with apt: {' '.join(missing)}")
        root = [] if os.geteuid() == 0 else ["sudo"]
        wait = ["-o", "DPkg::Lock::Timeout=600"]
        run_quietly([*root, "apt-get", *wait, "update", "-q"])
        run_quietly([*root, "apt-get", *wait, "install", "-y", "-q", "--no-install-recommends", *missing], DEBIAN_FRONTEND="noninteractive")


def install_elasticmq(folder):
    need_java()
    pom = os.path.join(folder, "pom.xml")
    write(pom, ELASTICMQ_POM)
    run_quietly(["mvn", "-q", "-B", "-f", pom, "dependency:copy-dependencies", f"-DoutputDirectory={folder}/lib"])


def install_ministack(folder):
    run_quietly([sys.executable, "-m", "venv", os.path.join(folder, "venv")])
    pip = os.path.join(folder, "venv/bin/pip")
    run_quietly([pip, "install", "--quiet", "--disable-pip-version-check", f"ministack=={VERSIONS['ministack']}"])


# --- start ------------------------------------------------------------------------------------------------------------


def elasticmq(folder, data, port):
    config = os.path.join(data, "elasticmq.conf")
    write(config, ELASTICMQ_CONF.format(port=port))
    java = ["java", "-Xmx512m", f"-Djava.io.tmpdir={data}", f"-Dconfig.file={config}"]
    return [*java, "-cp", f"{folder}/lib/*", "org.elasticmq.server.Main"], {}


def ministack(folder, data, port):
    return [os.path.join(folder, "venv/bin/ministack")], {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "TMPDIR": data}


def speaks_sqs(port):
    """Whether something on this port answers a call of SQS's JSON protocol, even to say that there is no such queue."""
    headers = {
        "Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": "AmazonSQS.ListQueues",
        "Authorization": f"AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=0",
    }  # fmt: skip
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/", b"{}", headers), timeout=5) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


def start(name, data):
    """Starts a server that dies with this process; returns it and its address."""
    folder = install(name)
    make = {"elasticmq": elasticmq, "ministack": ministack}[name]
    for _ in range(BOOT_ATTEMPTS):
        (port,) = free_ports(1)
        command, environment = make(folder, data, port)
        log = os.path.join(data, f"{name}.log")
        with open(log, "ab") as output:
            process = subprocess.Popen(
                command, env={**os.environ, **environment}, cwd=data, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                preexec_fn=die_with_parent,
            )  # fmt: skip
        deadline = time.monotonic() + BOOT_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if speaks_sqs(port):
                return process, f"http://127.0.0.1:{port}"
            time.sleep(0.1)
        process.kill()
        process.wait()
    with open(log, errors="replace") as file:
        raise Failure(f"{name} did not start: {shlex.join(command)}\n{file.read()[-4000:]}")


def run_with(names, command):
    """Runs a command beside servers and tells it of them by environment variables; returns its status."""
    before = time.monotonic()
    sweep(PREFIX)
    with contextlib.ExitStack() as ending:
        data = ending.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True))
        ending.enter_context(hold(data))
        urls = {}
        for name in names:
            process, urls[name] = start(name, data)
            ending.callback(process.wait)
            ending.callback(process.kill)
        say(f"{', '.join(f'{name} {VERSIONS[name]}' for name in names)} up after {time.monotonic() - before:.1f} s")
        environment = {
            **os.environ,
            "ASYA_TEST_SQS_URLS": " ".join(f"{name}={url}" for name, url in urls.items()),
            # Any key will do; without one the SDK would ask the network for it.
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
        child = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *command], env=environment)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: child.send_signal(number))
        status = child.wait()
    return 128 - status if status < 0 else status


def main():
    words, command = sys.argv[1:], []
    if words[:1] == ["with"]:
        if "--" not in words:
            raise Failure("say what to run: sqs.py with [NAME]... -- COMMAND...")
        cut = words.index("--")
        words, command = words[:cut], words[cut + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["install", "with"])
    parser.add_argument("names", nargs="*", choices=[*VERSIONS, []])
    given = parser.parse_args(words)
    names = given.names or list(VERSIONS)
    if given.verb == "with":
        return run_with(names, command)
    for name in names:
        print(f"{name} {VERSIONS[name]} in {install(name)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        say(str(failure))
        sys.exit(1)
