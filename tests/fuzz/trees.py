"""Nested settings, tables and text in which something is wrong."""

import copy
import json
import math
from random import Random

VALUES = (
    True, False, 0, 1, -1, 2, 3, 7, 1 << 31, 1 << 63, 10**30, 10**400, 0.0, -0.0, 0.5, 1e-300, 1e308, math.nan, math.inf,
    "", "x", "nan", "1", "x" * 5000, "\0", "\u202e", "../../x", [], [1], ["x"], [[]], [1] * 1000, {}, {"x": 1}, None,
)  # fmt: skip
"""What may stand where something else is expected."""


def change(tree: dict, random: Random, times: int = 1) -> dict:
    """The tree with values replaced, removed, added, or buried in other values."""
    tree = copy.deepcopy(tree)
    for _ in range(times):
        places = list(_places(tree))
        holder, key = random.choice(places) if places else (tree, "x")
        kind = random.choice(["replace"] * 5 + ["near"] * 2 + ["remove", "add", "bury"])
        if kind == "near" and type(holder[key]) in (int, float):
            holder[key] = random.choice(
                [holder[key] * 1000, -holder[key], holder[key] + 1, holder[key] // 3, str(holder[key])[:5000]]
            )
        elif kind == "remove":
            del holder[key]
        elif kind == "add" and isinstance(holder, dict):
            holder[random.choice(["x", "", "format", "model", "extends", "seed"])] = _value_of(random)
        elif kind == "bury":
            for _ in range(random.choice([1, 2, 100])):
                holder[key] = [holder[key]] if random.random() < 0.5 else {"x": holder[key]}
        else:
            holder[key] = _value_of(random)
    return tree


def _value_of(random: Random) -> object:
    """A copy, since tables and lists are changed later, and a case must not depend on those before it."""
    return copy.deepcopy(random.choice(VALUES))


def _places(tree: object):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from _places(value)


def toml(tree: dict) -> str:
    """A tree as TOML: sections for tables, inline tables in them. What TOML cannot say becomes an empty text."""
    plain = {key: value for key, value in tree.items() if not isinstance(value, dict)}
    lines = [f"{json.dumps(key)} = {_value(value)}" for key, value in plain.items()]
    for name, table in tree.items():
        if isinstance(table, dict):
            lines += [
                "",
                f"[{json.dumps(name)}]",
                *(f"{json.dumps(key)} = {_value(value)}" for key, value in table.items()),
            ]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, float):
        return "nan" if math.isnan(value) else "inf" if math.isinf(value) else repr(value)
    return json.dumps("" if value is None else value)


CELLS = (
    "",
    " ",
    '"',
    "x" * 140_000,
    "\0",
    "nan",
    "1e999",
    "..",
    ".",
    "missing.wav",
    "a,b",
    "\u00e9",
    "SPEECH",
    "dev ",
    "-",
)


def table(header: list[str], rows: list[list[str]], random: Random) -> bytes:
    """A CSV file in which something may be wrong with cells, columns, quotes, lines or the encoding."""
    header, rows = list(header), [list(row) for row in rows]
    for _ in range(random.choice([0, 1, 1, 1, 2, 3])):
        row = random.choice([header, *rows, *rows])
        kind = random.choice(["cell"] * 6 + ["drop", "more", "column"])
        if kind == "cell" and row:
            row[random.randrange(len(row))] = random.choice(CELLS)
        elif kind == "drop" and row:
            del row[random.randrange(len(row))]
        elif kind == "more":
            row.append(random.choice(CELLS))
        else:
            at = random.randrange(4)
            for line in [header, *rows]:
                del line[at : at + 1]
    comma = random.choice([",", ",", ",", ",", ",", ";"])
    text = random.choice(["\n", "\n", "\r\n", "\r"]).join(comma.join(row) for row in [header, *rows])
    encoding = random.choice(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "latin-1"])
    data = text.encode(encoding, "replace")
    return scribble(data, random) if random.random() < 0.2 else data


def scribble(data: bytes, random: Random) -> bytes:
    """Bytes replaced, removed or put in."""
    changed = bytearray(data)
    for _ in range(random.choice([1, 1, 3, 20])):
        at = random.randrange(len(changed) + 1)
        changed[at : at + random.choice([0, 1, 1, 4])] = random.choice(
            [b"", b"\0", b"\xff", b'"', b"[", b"{", b"\n", b"="]
        )
    return bytes(changed)
