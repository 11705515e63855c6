"""Sends 1,797 handwritten digits through three actors and says what came of them.

Takes: an `asya` program and, on request, the address of a RabbitMQ broker. Gives: accuracy, messages per second, latency
of each hop, and whether anything was lost or came twice; the last line is one JSON object. The labels stay here: they
are joined to the answers by message id. What is counted is what the sinks hold, read through the command line.
Blocks on: the pipeline, bounded. On failure: exit status 1 and the end of the log of `asya run`.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from sklearn.datasets import load_digits

HERE = pathlib.Path(__file__).resolve().parent
ROUTE = "prepare,classify,report"
# A namespace of its own, so that nothing else on a shared broker is touched.
NAMESPACE = "digits-demo"
# Loading scikit-learn three times on a busy machine takes seconds; minutes mean that something is wrong.
READY_SECONDS_MAX = 180
SETTLE_SECONDS_MAX = 60
MORE_THAN_ANY_SINK = "1000000"


class Demo:
    """One `asya run` and the commands that talk to it."""

    def __init__(self, asya: str, transport: str | None, folder: pathlib.Path) -> None:
        self.asya = asya
        self.place = ["--data", str(folder / "data"), "--namespace", NAMESPACE]
        if transport:
            self.place += ["--transport", transport]
        self.folder = folder
        self.log = folder / "run.log"

    def start(self) -> subprocess.Popen[bytes]:
        command = [self.asya, "run", str(HERE), *self.place, "--python", sys.executable]
        with self.log.open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def command(self, *args: str) -> str:
        """Run one command, whose errors are shown as they are."""
        return subprocess.run([self.asya, *args], stdout=subprocess.PIPE, text=True, check=True).stdout

    def status(self) -> list[dict]:
        return json.loads(self.command("status", "--data", str(self.folder / "data"), "--json"))["actors"]

    def wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + READY_SECONDS_MAX
        record = self.folder / "data" / "run.json"
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"`asya run` ended with status {process.returncode}")
            if record.exists() and all(actor["ready"] for actor in self.status()):
                return
            time.sleep(0.1)
        raise RuntimeError(f"the actors were not ready within {READY_SECONDS_MAX} s")

    def take(self, sink: str) -> list[dict]:
        """Take everything out of a sink: `results` or `failed`."""
        lines = self.command(sink, *self.place, "--take", "--envelopes", "--limit", MORE_THAN_ANY_SINK)
        return [json.loads(line) for line in lines.splitlines()]

    def waiting(self) -> int:
        """Messages on their way or in a sink, as the queues count them."""
        queues = json.loads(self.command("queues", *self.place, "--json"))
        return sum(queue["ready"] or 0 for queue in queues if queue["actor"] in ("x-sink", "x-sump"))


def write_images(folder: pathlib.Path) -> dict[str, int]:
    """One file for each image; gives the label of each, which nobody else gets."""
    digits = load_digits()
    folder.mkdir()
    labels = {}
    for number, (image, label) in enumerate(zip(digits.images, digits.target)):
        path = folder / f"{number:04}.digit"
        path.write_bytes(image.astype("uint8").tobytes())
        labels[str(path)] = int(label)
    return labels


def main() -> int:
    parser = argparse.ArgumentParser(description="Send handwritten digits through three actors.")
    parser.add_argument("--asya", default="asya", help="the asya program")
    parser.add_argument("--transport", help="amqp://user:password@host:5672 instead of the embedded broker")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="asya-digits-") as folder:
        demo = Demo(args.asya, args.transport, pathlib.Path(folder))
        labels = write_images(demo.folder / "images")
        process = demo.start()
        try:
            result = send_and_count(demo, process, labels)
        except Exception as error:
            print(f"the demo failed: {error}\nthe end of its log:", file=sys.stderr)
            sys.stderr.write("".join(demo.log.read_text(errors="replace").splitlines(keepends=True)[-40:]))
            return 1
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait()
    print(json.dumps(result))
    clean = result["lost"] == 0 and result["duplicated"] == 0 and result["answered"] == result["sent"]
    return 0 if clean else 1


def send_and_count(demo: Demo, process: subprocess.Popen[bytes], labels: dict[str, int]) -> dict:
    broker = "RabbitMQ" if "--transport" in demo.place else "the embedded broker"
    print(f"starting {ROUTE.replace(',', ' -> ')} on {broker}; the model trains on the first half of the images")
    demo.wait_until_ready(process)
    for sink in ("results", "failed"):
        left = demo.take(sink)
        if left:
            print(f"({len(left)} {sink} of an earlier run were left and are taken away)")

    print(f"sending {len(labels)} images, 64 bytes each")
    journal = demo.folder / "sent.jsonl"
    began = time.monotonic()
    demo.command("send", ROUTE, str(demo.folder / "images"), *demo.place, "--wait", "--journal", str(journal))
    seconds = time.monotonic() - began

    sent = {entry["id"]: entry["input"] for entry in map(json.loads, journal.read_text().splitlines())}
    deadline = time.monotonic() + SETTLE_SECONDS_MAX
    while demo.waiting() < len(sent) and time.monotonic() < deadline:
        time.sleep(0.1)
    hops = demo.status()
    answers = demo.take("results")
    failures = demo.take("failed")

    outcomes = collections.Counter(envelope["id"] for envelope in answers + failures)
    answered = {envelope["id"]: envelope["payload"] for envelope in answers}
    lost = [message for message in sent if message not in outcomes]
    duplicated = sum(count - 1 for message, count in outcomes.items() if message in sent)
    names = sorted(labels)
    unseen = set(names[len(names) // 2 :])
    right = sum(
        labels[sent[message]] == payload["digit"]
        for message, payload in answered.items()
        if sent.get(message) in unseen
    )
    asked = sum(path in unseen for path in sent.values())

    print(f"\n{'hop':<10} {'messages':>8} {'p50 ms':>8} {'p99 ms':>8}")
    for hop in hops:
        p50, p99 = (1000 * (hop[key] or 0) for key in ("p50_seconds", "p99_seconds"))
        print(f"{hop['actor']:<10} {hop['processed']:>8} {p50:>8.1f} {p99:>8.1f}")
    print(f"\n{len(sent)} sent, {len(answered)} answered, {len(failures)} failed, {len(lost)} lost, {duplicated} duplicated")
    print(f"{right} of the {asked} digits that the model had never seen are right: {right / max(asked, 1):.1%}")
    print(f"{len(answered) / seconds:,.0f} messages a second, from the first file read to the last answer printed\n")
    return {
        "sent": len(sent),
        "answered": len(answered),
        "lost": len(lost),
        "duplicated": duplicated,
        "accuracy": round(right / max(asked, 1), 4),
        "messages_per_second": round(len(answered) / seconds, 1),
    }


if __name__ == "__main__":
    # An interrupt must reach `asya run` through this process, which then drains.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
