#!/bin/bash
# The digits demo with what `make demo` has built and installed; arguments go on to demo.py.
cd "$(dirname "$0")/../.." && exec target/venv/bin/python examples/digits/demo.py --asya target/release/asya "$@"
