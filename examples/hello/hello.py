"""Two handlers without any dependency: what one returns is what the next actor of the route gets."""

import os


def greet(payload: dict) -> dict:
    """A plain function."""
    name = payload["name"]
    return {**payload, "greeting": f"Hello, {name}!"}


class Shouter:
    """Constructed once, when its worker starts: the place to load a model."""

    def __init__(self) -> None:
        self.marks = "!" * int(os.environ.get("MARKS", "1"))

    def shout(self, payload: dict) -> dict:
        return {**payload, "greeting": payload["greeting"].upper().rstrip("!") + self.marks}
