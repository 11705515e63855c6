#!/usr/bin/env python3
"""Builds `asya-runtime.pyz`: the same bytes from the same sources, whoever builds it and when.

Takes: where to write (default: target/asya-runtime.pyz of the repository). Gives: the zipapp, and its hash on stdout.
Blocks on: nothing. On failure: an exception; nothing is left half written.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
MAIN = "import sys\n\nfrom asya.__main__ import main\n\nsys.exit(main(sys.argv[1:]))\n"
# The earliest that a zip archive can say.
EPOCH = (1980, 1, 1, 0, 0, 0)


def archive() -> bytes:
    """The zipapp's bytes."""
    files = {"__main__.py": MAIN.encode()}
    for path in sorted((HERE / "asya").rglob("*")):
        if path.suffix == ".py" or path.name == "py.typed":
            files[path.relative_to(HERE).as_posix()] = path.read_bytes()
    buffer = io.BytesIO()
    buffer.write(b"#!/usr/bin/env python3\n")
    # Stored, not deflated: what zlib makes differs between its versions.
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as package:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            package.writestr(entry, content)
    return buffer.getvalue()


def main() -> None:
    """Write the archive."""
    default = HERE.parent / "target" / "asya-runtime.pyz"
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    content = archive()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.chmod(0o755)
    partial.replace(target)
    sys.stdout.write(f"{target} {len(content)} bytes sha256 {hashlib.sha256(content).hexdigest()}\n")


if __name__ == "__main__":
    main()
