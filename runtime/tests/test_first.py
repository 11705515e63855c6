def test_echo(worker):
    w = worker("""
def handle(p):
    p["n"] += 1
    return p
""")
    c = w.one({"n": 1})
    assert c.document == {"n": 2}
