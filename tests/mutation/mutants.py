"""Small changes of a module that its tests should notice, and a sample of them.

A mutant replaces one piece of source text. What cannot change a result is left alone: docstrings, annotations, decorators,
messages of errors, `__repr__`. So are changes that any call would notice, such as dropping an argument without default.
"""

import ast
import copy
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOMS = ("inference", "unfold", "networks", "training", "signal", "corpus", "scoring")

ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
PAIRS = [("min", "max"), ("minimum", "maximum"), ("clamp_min", "clamp_max"), ("any", "all"), ("floor", "ceil")]
FUNCTIONS = {one: other for pair in PAIRS for one, other in (pair, pair[::-1])}
TRANSPOSES = {"T", "mT"}
TEXT = (ast.JoinedStr, ast.List, ast.Tuple)


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    file: str
    """Relative to the checkout."""
    line: int
    column: int
    kind: str
    before: str
    after: str
    end: tuple[int, int]
    """Line and column behind the text that is replaced; columns count bytes."""
    lines: tuple[int, int]
    """First and last line of the statement: a test that runs one of them may notice."""
    source: str = ""
    """The line on which it begins, without its indentation."""
    name: str = ""
    """For a statement outside functions, what it defines: a test that runs a line with this name may notice."""

    @property
    def room(self) -> str:
        return Path(self.file).parts[1]

    def applied(self, source: str) -> str:
        """The source of the file with the change."""
        lines = source.encode().splitlines(keepends=True)
        head = b"".join(lines[: self.line - 1]) + lines[self.line - 1][: self.column]
        tail = lines[self.end[0] - 1][self.end[1] :] + b"".join(lines[self.end[0] :])
        return (head + self.after.encode() + tail).decode()


def mutants(root: Path, rooms: Iterable[str] = ROOMS) -> list[Mutant]:
    """All mutants of the rooms of a checkout, in order of file and line."""
    package = root / "deepnmf_cli"
    optional = _optional_parameters(package.rglob("*.py"))
    paths = [path for room in rooms for path in sorted((package / room).rglob("*.py"))]
    return [mutant for path in paths for mutant in _Finder(path, str(path.relative_to(root)), optional).found]


def sample(population: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """`count` mutants, from each room its share of all (largest remainder), in an order that is random too."""
    draw = random.Random(seed)
    by_room = {room: [mutant for mutant in population if mutant.room == room] for room in ROOMS}
    exact = {room: count * len(members) / len(population) for room, members in by_room.items()}
    shares = {room: int(share) for room, share in exact.items()}
    for room in sorted(exact, key=lambda room: shares[room] - exact[room])[: count - sum(shares.values())]:
        shares[room] += 1
    chosen = [mutant for room, members in by_room.items() for mutant in draw.sample(members, shares[room])]
    draw.shuffle(chosen)
    return chosen


def _optional_parameters(paths: Iterable[Path]) -> dict[str, set[str]]:
    """For each function and class of the package, by its bare name, the arguments that have a default."""
    found: dict[str, set[str]] = {}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                names = [argument.arg for argument in node.args.args[len(node.args.args) - len(node.args.defaults) :]]
                keywords = zip(node.args.kwonlyargs, node.args.kw_defaults)
                names += [argument.arg for argument, default in keywords if default is not None]
                found.setdefault(node.name, set()).update(names)
            elif isinstance(node, ast.ClassDef):
                fields = [part for part in node.body if isinstance(part, ast.AnnAssign) and part.value is not None]
                found.setdefault(node.name, set()).update(ast.unparse(part.target) for part in fields)
    return found


class _Finder(ast.NodeVisitor):
    """Walks through a module and notes what may change."""

    def __init__(self, path: Path, name: str, optional: dict[str, set[str]]):
        source = path.read_text("utf-8")
        self.file, self.optional, self.found = name, optional, list[Mutant]()
        self.source = source.splitlines()
        self.statement: ast.stmt | None = None
        self.in_function = False
        self.visit(ast.parse(source))

    def note(self, kind: str, node: ast.expr | ast.stmt, changed: ast.AST | str) -> None:
        statement = self.statement
        body = getattr(statement, "body", None)
        # Of a compound statement, the head alone.
        last = max(statement.lineno, body[0].lineno - 1) if body else statement.end_lineno
        after = changed if isinstance(changed, str) else f"({ast.unparse(changed)})"
        place = self.file, node.lineno, node.col_offset, kind, ast.unparse(node).split("\n")[0], after
        name = "" if self.in_function else _defined(statement)
        self.found.append(
            Mutant(
                *place,
                (node.end_lineno, node.end_col_offset),
                (statement.lineno, last),
                self.source[node.lineno - 1].strip(),
                name,
            )
        )

    def visit(self, node: ast.AST) -> None:
        if not isinstance(node, ast.stmt):
            return super().visit(node)
        outer, self.statement = self.statement, node
        super().visit(node)
        self.statement = outer

    def each(self, *nodes: ast.AST | list | None) -> None:
        for node in nodes:
            for part in node if isinstance(node, list) else [node]:
                if part is not None:
                    self.visit(part)

    def skip(self, node: ast.AST) -> None:
        """Nothing below the node is changed."""

    visit_Raise = visit_Assert = visit_JoinedStr = visit_Import = visit_ImportFrom = skip

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in {"__repr__", "__str__"}:
            return
        self.each(node.args.defaults, node.args.kw_defaults)
        outer, self.in_function = self.in_function, True
        self.each(node.body)
        self.in_function = outer

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.each(node.body)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.each(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        """An annotation."""

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.each(node.args.defaults, node.args.kw_defaults, node.body)

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            return
        self.note("branch", node.test, ast.UnaryOp(ast.Not(), node.test))
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.note("branch", node, ast.IfExp(node.test, node.orelse, node.body))
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.note("filter", test, ast.UnaryOp(ast.Not(), test))
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self.note("statement", node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.note("statement", node, "pass")
        if type(node.op) in ARITHMETIC:
            changed = _with(node, op=ARITHMETIC[type(node.op)]())
            self.note("arithmetic", node, ast.unparse(changed))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        sides = node.left, node.right
        text = any(isinstance(side, TEXT) or _is_text(side) for side in sides)
        if type(node.op) in ARITHMETIC and not text:
            self.note("arithmetic", node, _with(node, op=ARITHMETIC[type(node.op)]()))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub):
            self.note("not" if isinstance(node.op, ast.Not) else "sign", node, node.operand)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.note("boolean", node, _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And()))
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for index, operator in enumerate(node.ops):
            operators = [*node.ops[:index], COMPARISONS[type(operator)](), *node.ops[index + 1 :]]
            self.note("comparison", node, _with(node, ops=operators))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.note("constant", node, str(not value))
        elif isinstance(value, int):
            for other in [value + 1, 0] if value == 1 else [value + 1]:
                self.note("constant", node, str(other))
        elif isinstance(value, float):
            self.note("constant", node, repr(2 * value or 1.0))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in TRANSPOSES and isinstance(node.ctx, ast.Load):
            self.note("transpose", node, node.value)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name.endswith(("Error", "Warning")) or name == "warn":
            return
        if name in FUNCTIONS:
            changed = copy.deepcopy(node.func)
            setattr(changed, "attr" if isinstance(changed, ast.Attribute) else "id", FUNCTIONS[name])
            self.note("function", node, _with(node, func=changed))
        for keyword in node.keywords:
            if keyword.arg and (name not in self.optional or keyword.arg in self.optional[name]):
                self.note("argument", node, _with(node, keywords=[k for k in node.keywords if k is not keyword]))
        self.generic_visit(node)


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _defined(statement: ast.stmt) -> str:
    """The name that a statement outside functions gives to what it makes; "" if it gives none."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return statement.name
    target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
    return target.id if isinstance(target, ast.Name) else ""
