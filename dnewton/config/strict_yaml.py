"""YAML read strictly: safe tags only, equal keys refused, `1e-3` a number and `off` a word."""

from __future__ import annotations

import re
from typing import Any

import yaml

from dnewton.errors import UserError, one_line

_FLOAT = re.compile(
    r"""^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?
        |\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
        |\.?(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
    re.X,
)
_MAX_DEPTH = 40
_LONGEST_INT = 30  # digits
_CURES = (  # for what the YAML library says of the commonest slips
    ("character '\\t'", "indent with blanks, not with tabs"),
    ("mapping values are not allowed", "write `key: value` with a blank after the colon, equal keys equally indented"),
    ("expected ',' or", "close the bracket"),
    ("expected <block end>", "indent the keys of a section equally"),
    ("found another document", "leave only one, without lines of ---"),
    ("could not determine a constructor", "leave the tag out: plain words, numbers, lists and mappings are read"),
    ("cannot start any token", "put the word in quotation marks"),
)


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's idea of floats and booleans."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a plain word", problem_mark=key_node.start_mark)
            if key_node.value in seen:
                problem = f"key {key_node.value!r} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)

    def construct_float(self, node: yaml.ScalarNode) -> float:
        return float(str(self.construct_scalar(node)).replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))

    def construct_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        if len(text) > _LONGEST_INT:
            raise yaml.MarkedYAMLError(problem=f"a number of {len(text)} digits", problem_mark=node.start_mark)
        return int(text)

    def construct_scalar(self, node: Any) -> Any:
        try:
            node.value.encode("utf-8", "surrogateescape")  # messages and names of files are
        except UnicodeEncodeError:
            problem = "\\u escapes of half a character are not allowed"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None
        return super().construct_scalar(node)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # aliases serve no purpose here and can blow a small file up
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not allowed", problem_mark=event.start_mark)
        self._depth = getattr(self, "_depth", 0) + 1
        if self._depth > _MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


_DROPPED_TAGS = {f"tag:yaml.org,2002:{tag}" for tag in ("float", "int", "bool", "timestamp", "merge")}
_Loader.yaml_implicit_resolvers = {
    first: kept
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if (kept := [(tag, rule) for tag, rule in rules if tag not in _DROPPED_TAGS])
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789.iI"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_float)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_int)


def parse(text: str, source: str) -> Any:
    """The value of a YAML text.

    Raises UserError naming `source` and the line when the text is not YAML or repeats a key.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        problem = one_line(error.problem or error)
        cure = next((f"; {cure}" for words, cure in _CURES if words in problem), "")
        raise UserError(f"{source}{line}: not valid YAML: {problem}{cure}") from None
    except yaml.reader.ReaderError as error:
        line = f":{text.count(chr(10), 0, error.position) + 1}"
        raise UserError(f"{source}{line}: not valid YAML: U+{error.character:04X} is no character of text") from None
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # an explicit tag such as `!!bool x` makes PyYAML's constructors fail in all these ways
        raise UserError(f"{source}: not valid YAML: {one_line(error)}") from None


def dump(value: Any) -> str:
    """The YAML text of plain values; :func:`parse` gives them back."""
    return yaml.safe_dump(value, sort_keys=False, default_flow_style=None, allow_unicode=True)
