"""The rewriting of tests, with libcst: every blank and comment stays where it is."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider

from portlease._lint import _plan

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import ClassVar

    from libcst.metadata import BaseMetadataProvider

    from portlease._lint._plan import Plan


class UnwritableError(Exception):
    """A file that cannot be rewritten without touching what is none of our business."""


def rewrite(data: bytes, plans: Sequence[Plan]) -> bytes:
    """*data*, a module, with *plans* carried out.

    Raises:
        UnwritableError: the module cannot be rewritten; why.
    """
    try:
        module = cst.parse_module(data)
    except (cst.ParserSyntaxError, ValueError, UnicodeError, LookupError) as error:
        raise UnwritableError(f"libcst cannot read it: {error}") from error
    if module.bytes != data:
        raise UnwritableError("libcst does not give it back byte for byte")
    wrapper = MetadataWrapper(module, unsafe_skip_copy=True)
    written = wrapper.visit(_Tests(plans)).bytes
    try:
        ast.parse(written)
    except SyntaxError as error:
        raise UnwritableError(f"what would be written is no Python: {error}") from error
    return written


class _Tests(cst.CSTTransformer):
    """Finds the tests by name and line."""

    METADATA_DEPENDENCIES: ClassVar[Collection[type[BaseMetadataProvider[object]]]] = (
        PositionProvider,
    )

    def __init__(self, plans: Sequence[Plan]) -> None:
        super().__init__()
        self._plans = {(plan.name, plan.line): plan for plan in plans}

    def leave_FunctionDef(  # noqa: N802 - libcst's name for it
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> cst.FunctionDef:
        line = self.get_metadata(PositionProvider, original_node.name).start.line
        plan = self._plans.get((original_node.name.value, line))
        return updated_node if plan is None else _rewritten(updated_node, plan)


def _rewritten(test: cst.FunctionDef, plan: Plan) -> cst.FunctionDef:
    body = test.body
    if isinstance(body, cst.IndentedBlock):
        statements = list(body.body)
        at = 1 if _is_documentation(statements[0]) else 0
        replaced = [*statements[:at]]
        for statement in statements[at:]:
            new = statement.visit(_Numbers(plan))
            assert isinstance(new, _STATEMENTS)  # noqa: S101 - nothing is removed
            replaced.append(new)
        said = [cst.parse_statement(line) for line in plan.first]
        if said and at < len(replaced):
            said[0] = said[0].with_changes(leading_lines=_blank_lines(replaced[at]))
            if said[0].leading_lines:
                replaced[at] = replaced[at].with_changes(leading_lines=[])
        new_body: cst.BaseSuite = body.with_changes(body=[*replaced[:at], *said, *replaced[at:]])
    else:
        suite = body.visit(_Numbers(plan))
        assert isinstance(suite, cst.BaseSuite)  # noqa: S101 - nothing is removed
        new_body = suite
    for fixture in plan.fixtures:
        test = _with_parameter(test, fixture)
    return test.with_changes(body=new_body)


def _blank_lines(statement: cst.BaseStatement) -> list[cst.EmptyLine]:
    """The lines above a statement, if no comment is among them."""
    lines = list(getattr(statement, "leading_lines", ()))
    return lines if all(line.comment is None for line in lines) else []


_STATEMENTS = (cst.SimpleStatementLine, cst.BaseCompoundStatement)


def _is_documentation(statement: cst.BaseStatement) -> bool:
    match statement:
        case cst.SimpleStatementLine(
            body=[cst.Expr(value=cst.SimpleString() | cst.ConcatenatedString()), *_]
        ):
            return True
        case _:
            return False


# --- parameters ---------------------------------------------------------------------------------


def _with_parameter(test: cst.FunctionDef, name: str) -> cst.FunctionDef:
    """The test with one more parameter, behind those without a default."""
    parameters = list(test.params.params)
    at = sum(one.default is None for one in parameters)
    annotated = any(one.annotation is not None for one in parameters) or test.returns is not None
    annotation = cst.Annotation(cst.Name("int")) if annotated and name != "leased_ports" else None
    new = cst.Param(cst.Name(name), annotation=annotation)
    if at == len(parameters) and parameters:
        last = parameters[-1]
        if isinstance(last.comma, cst.Comma) and _ends(test.params):
            # Each on a line of its own, the last with its comma.
            new = new.with_changes(comma=last.comma)
            between = cst.Comma(whitespace_after=_between(test))
        elif isinstance(last.comma, cst.Comma):
            new, between = new.with_changes(comma=last.comma), last.comma
        else:
            lines = isinstance(test.whitespace_before_params, cst.ParenthesizedWhitespace)
            between = cst.Comma(
                whitespace_after=_between(test) if lines else cst.SimpleWhitespace(" ")
            )
        # What stands between the last one and the bracket stays there.
        new = new.with_changes(whitespace_after_param=last.whitespace_after_param)
        parameters[-1] = last.with_changes(
            comma=between, whitespace_after_param=cst.SimpleWhitespace("")
        )
    elif at < len(parameters) or not _ends(test.params):
        new = new.with_changes(comma=cst.Comma(whitespace_after=cst.SimpleWhitespace(" ")))
    parameters.insert(at, new)
    return test.with_changes(params=test.params.with_changes(params=parameters))


def _ends(parameters: cst.Parameters) -> bool:
    """Whether nothing follows the ordinary parameters: no ``*``, no ``**``."""
    return (
        not isinstance(parameters.star_arg, cst.Param | cst.ParamStar)
        and not parameters.kwonly_params
        and parameters.star_kwarg is None
    )


def _between(test: cst.FunctionDef) -> cst.BaseParenthesizableWhitespace:
    """What stands between two parameters of this test."""
    for one in test.params.params[:-1]:
        if isinstance(one.comma, cst.Comma):
            return one.comma.whitespace_after
    if isinstance(test.whitespace_before_params, cst.ParenthesizedWhitespace):
        return test.whitespace_before_params
    return cst.SimpleWhitespace(" ")


# --- numbers ------------------------------------------------------------------------------------


class _Numbers(cst.CSTTransformer):
    """Puts names in the place of numbers, and f-strings in the place of texts with them."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._names = plan.names
        self._names_of_texts = {str(number): name for number, name in plan.names.items()}
        self._patterns = {number: _plan.in_text(number) for number in plan.names}
        self._concatenated = 0

    def leave_Integer(  # noqa: N802 - libcst's name for it
        self, original_node: cst.Integer, updated_node: cst.Integer
    ) -> cst.BaseExpression:
        del original_node
        name = self._names.get(updated_node.evaluated_value)
        if name is None:
            return updated_node
        return cst.Name(name, lpar=updated_node.lpar, rpar=updated_node.rpar)

    def visit_ConcatenatedString(self, node: cst.ConcatenatedString) -> None:  # noqa: N802
        del node
        self._concatenated += 1

    def leave_ConcatenatedString(  # noqa: N802 - libcst's name for it
        self, original_node: cst.ConcatenatedString, updated_node: cst.ConcatenatedString
    ) -> cst.BaseExpression:
        del original_node
        self._concatenated -= 1
        return updated_node

    def leave_SimpleString(  # noqa: N802 - libcst's name for it
        self, original_node: cst.SimpleString, updated_node: cst.SimpleString
    ) -> cst.BaseExpression:
        del original_node
        prefix, raw = updated_node.prefix, updated_node.raw_value
        if "b" in prefix.lower():
            return updated_node
        name = self._names_of_texts.get(raw)
        if name is not None and not self._concatenated:
            return cst.Call(
                cst.Name("str"),
                [cst.Arg(cst.Name(name))],
                lpar=updated_node.lpar,
                rpar=updated_node.rpar,
            )
        parts = self._parts(raw)
        if parts is None:
            return updated_node
        contents = [
            part.with_changes(value=part.value.replace("{", "{{").replace("}", "}}"))
            if isinstance(part, cst.FormattedStringText)
            else part
            for part in parts
        ]
        quote = updated_node.quote
        return cst.FormattedString(
            contents,
            start=f"{prefix.replace('u', '').replace('U', '')}f{quote}",
            end=quote,
            lpar=updated_node.lpar,
            rpar=updated_node.rpar,
        )

    def leave_FormattedString(  # noqa: N802 - libcst's name for it
        self, original_node: cst.FormattedString, updated_node: cst.FormattedString
    ) -> cst.BaseExpression:
        del original_node
        contents: list[cst.BaseFormattedStringContent] = []
        for part in updated_node.parts:
            found = self._parts(part.value) if isinstance(part, cst.FormattedStringText) else None
            contents.extend([part] if found is None else found)
        return updated_node.with_changes(parts=contents)

    def _parts(self, text: str) -> list[cst.BaseFormattedStringContent] | None:
        """The text cut where it has a number of ours; None if it has none."""
        cuts = sorted(
            (match.start(), match.end(), self._names[number])
            for number, pattern in self._patterns.items()
            for match in pattern.finditer(text)
        )
        if not cuts:
            return None
        parts: list[cst.BaseFormattedStringContent] = []
        at = 0
        for start, end, name in cuts:
            if at < start:
                parts.append(cst.FormattedStringText(text[at:start]))
            parts.append(cst.FormattedStringExpression(cst.Name(name)))
            at = end
        if at < len(text):
            parts.append(cst.FormattedStringText(text[at:]))
        return parts
