"""
rpm's boolean dependencies: ``(a or b >= 2)``, ``(a if b else c)``, ``(a with b)``.

rpm.org, "Boolean Dependencies". A name may contain parentheses, as in ``libz.so.1()(64bit)``; it begins with none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .relations import Need, Relation, RelationInvalid, RichRelation

_WORDS = re.compile(r"[()]|[^\s()]+(?:\((?:[^()]|\([^()]*\))*\)[^\s()]*)*")
_COMPARISONS = ("<", "<=", "=", ">=", ">")
_CHAINED = ("and", "or", "with")
_OPERATORS = (*((operator,) for operator in (*_CHAINED, "if", "unless", "without")), ("if", "else"), ("unless", "else"))


def plain(words: Sequence[str]) -> Relation:
    """Return the relation in a name, or in a name, an operator and a version."""
    name, operator, version = (*words, "", "")[:3]
    return Relation(" ".join(words), name, operator, version)


def parse(text: str) -> Need:
    """
    Parse a boolean dependency.

    Raises:
        RelationInvalid: It has an unknown form.
    """
    words = _WORDS.findall(text)[::-1]
    try:
        need = _operand(words)
    except IndexError:
        raise RelationInvalid(f"the dependency {text} has no end") from None
    if words:
        raise RelationInvalid(f"the dependency {text} goes on behind its end")
    return need


def _operand(words: list[str]) -> Need:
    word = words.pop()
    if word != "(":
        has_version = words[-1] in _COMPARISONS
        return plain([word, words.pop(), words.pop()] if has_version else [word])
    operands, operators = [_operand(words)], list[str]()
    while (operator := words.pop()) != ")":
        operators.append(operator)
        operands.append(_operand(words))
    if not operators:
        return operands[0]
    if tuple(operators) not in _OPERATORS and not (len(set(operators)) == 1 and operators[0] in _CHAINED):
        raise RelationInvalid(f"baseimg does not know the dependency operators {' and '.join(operators)}")
    texts = [operands[0].text, *(f"{name} {each.text}" for name, each in zip(operators, operands[1:], strict=True))]
    return RichRelation(f"({' '.join(texts)})", operators[0], tuple(operands))
