"""What a notebook shows of one object: its name over a small table of what it is."""

from collections.abc import Iterable, Mapping


def card(kind: str, name: str, rows: Mapping[str, object]) -> str:
    """HTML of an object: a heading, and a row for each thing that is known of it (None and "" are left out)."""
    from html import escape  # few shows are HTML

    lines = (
        f'<tr><th scope="row" style="text-align:left">{escape(label)}</th>'
        f'<td style="text-align:left">{escape(_text(value))}</td></tr>'
        for label, value in rows.items()
        if value not in (None, "", (), [])
    )
    return f"<div><b>{escape(kind)} {escape(name)}</b><table><tbody>{''.join(lines)}</tbody></table></div>"


def _text(value: object) -> str:
    """A value in words: numbers with separators, lists with commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(map(_text, value))
    return str(value)
