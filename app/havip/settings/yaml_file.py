"""A YAML file as a mapping that remembers its lines, and that has each key once."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.constructor import ConstructorError

from havip.files import is_for_everyone, open_regular
from havip.settings.errors import ConfigError

_MAX_BYTES = 1 << 20
_MAX_VALUES = 10_000
_MERGE = "tag:yaml.org,2002:merge"


def read_mapping(path: str) -> tuple[dict[str, tuple[Any, int]], bool]:
    """The top level of a YAML file, and whether every user of the host may read it.

    By key its value and its line. An empty file is empty.

    Raises:
        ConfigError: the file cannot be read, or it is not YAML, or not a mapping of texts.
    """
    try:
        with open_regular(path) as file:
            content = file.read(_MAX_BYTES + 1)
            is_exposed = is_for_everyone(file)
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}", "name a readable file") from None
    if len(content) > _MAX_BYTES:
        raise _refused(path, "is larger than 1 MiB", "name the configuration file")
    loader: _Loader | None = None
    line: int | None = None
    try:
        loader = _Loader(content)
        root = loader.get_single_node()
        if root is None:
            return {}, is_exposed
        if not isinstance(root, yaml.MappingNode):
            raise _refused(
                f"{path}:{root.start_mark.line + 1}",
                "is not a mapping",
                "write lines such as `vipAddressCidr: 192.0.2.10/24`",
            )
        _each_key_once(path, root)
        found: dict[str, tuple[Any, int]] = {}
        for key_node, value_node in root.value:
            line = key_node.start_mark.line + 1
            key = str(loader.construct_object(key_node, deep=True))
            if key in found:
                raise _twice(path, key, line)
            value = loader.construct_object(value_node, deep=True)
            found[key] = (value, line)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line_text = f":{mark.line + 1}" if mark else ""
        raise _refused(
            f"{path}{line_text}", f"is not YAML: {error.problem}", "mend that line"
        ) from None
    except yaml.YAMLError as error:  # the reader's, of bytes that are no text
        place = content.count(b"\n", 0, getattr(error, "position", 0)) + 1
        reason = str(error).splitlines()[0]
        raise _refused(
            f"{path}:{place}", f"is not YAML: {reason}", "save it as UTF-8 text"
        ) from None
    except (ValueError, OverflowError, RecursionError) as error:
        # The scanner's, of escapes and versions that are no number, and of too many brackets.
        problem = (
            "is nested too deeply"
            if isinstance(error, RecursionError)
            else f"is not YAML: {str(error).splitlines()[0]}"
        )
        place = line or (loader.line + 1 if loader else 1)
        raise _refused(f"{path}:{place}", problem, "mend that line") from None
    finally:
        if loader is not None:
            loader.dispose()
    return found, is_exposed


class _Loader(yaml.SafeLoader):
    """Knows texts, numbers, yes and no, null, lists and mappings.

    No setting is anything else, and a name that looks like a date stays a name.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node.

        Raises:
            ConstructorError: with the line; the constructors themselves raise whatever comes.
        """
        try:
            value = super().construct_object(node, deep=deep)
            if isinstance(value, int):
                str(value)  # the interpreter refuses to write thousands of digits
        except (ValueError, LookupError, AttributeError, OverflowError):
            # What stands there is not shown: it may be a password.
            kind = _KINDS.get(node.tag, node.tag)
            raise ConstructorError(
                None, None, f"what stands there is not {kind}", node.start_mark
            ) from None
        return value


_KINDS = {
    f"tag:yaml.org,2002:{tag}": kind
    for tag, kind in {
        "null": "empty",
        "bool": "true or false",
        "int": "a whole number of a sensible size",
        "float": "a number",
        "str": "text",
        "seq": "a list",
        "map": "a mapping",
    }.items()
}
_Loader.yaml_constructors = {
    None: yaml.SafeLoader.construct_undefined,
    **{tag: yaml.SafeLoader.yaml_constructors[tag] for tag in _KINDS},
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in {*_KINDS, _MERGE}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _each_key_once(path: str, root: yaml.Node) -> None:
    """YAML 1.2 §3.2.1.3 wants unique keys; the parser silently takes the last.

    Aliases are followed, since values grow as they do: one within itself never ends.
    """
    waiting = [root]
    done = 0
    while waiting:
        node = waiting.pop()
        done += 1
        if done + len(waiting) > _MAX_VALUES:
            raise _refused(
                f"{path}:{node.start_mark.line + 1}",
                f"holds more than {_MAX_VALUES} values, by aliases or in itself",
                "write only what havip needs",
            )
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        raise _twice(path, key.value, key.start_mark.line + 1)
                    seen.add(key.value)
                waiting.append(value)
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _twice(path: str, key: str, line: int) -> ConfigError:
    return ConfigError(
        field=key,
        value=None,
        source=f"file {path}:{line}",
        problem="is given twice",
        remedy="keep one of them",
    )


def _refused(place: str, problem: str, remedy: str) -> ConfigError:
    return ConfigError(field="config", value=place, problem=problem, remedy=remedy)
