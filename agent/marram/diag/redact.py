"""Takes secrets out of texts: what follows a name such as password, credentials in URLs, keys, tokens."""

from __future__ import annotations

import re
from typing import Any

MASK = "[left out]"
_SECRET = r"(?:pass(?:word|phrase|wd)?|secret|token|pin|pin-value|api[_-]?key|private[_-]?key)"
_RULES = (
    (re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)", re.DOTALL), MASK),
    (re.compile(r"mrm1_[0-9a-f]{16}_[0-9a-f]{32}_[0-9a-f]{32}"), MASK),
    (re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/@'\"]+@"), rf"\1{MASK}@"),
    (re.compile(r"(?i)\b(authorization\s*[:=]\s*(?:basic|bearer)?\s*)[^\s,;'\"]+"), rf"\1{MASK}"),
    # key: value, key=value, "key": "value"; in URLs up to the next & or ;
    (
        re.compile(
            rf"(?i)((?:^|[^A-Za-z0-9])[A-Za-z0-9_.-]*{_SECRET}[\"']?\s*[:=]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;&}}\]]+)"
        ),
        rf"\1{MASK}",
    ),
)
_NAME = re.compile(rf"(?i)(?:^|.*[^A-Za-z]){_SECRET}$")


def text(content: str) -> str:
    """The text without secrets."""
    for pattern, instead in _RULES:
        content = pattern.sub(instead, content)
    return content


def tree(value: Any, key: str = "") -> Any:  # noqa: ANN401  (any JSON)
    """The same of lists and objects; what has a secret's name is left out whole, unless it says nothing."""
    if isinstance(value, dict):
        return {name: tree(one, str(name)) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [tree(one, key) for one in value]
    if not isinstance(value, str):
        return value
    return MASK if value and _NAME.match(key) else text(value)
