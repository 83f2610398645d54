"""What a browser knows of a page: its links, and its forms with their fields."""

from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class Form:
    """A form of a page, as a browser would submit it."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    """Names with the values that they have; what a person has to fill in is empty."""


@dataclass
class HtmlPage(HTMLParser):
    """A page that was parsed.

    Attributes:
        links: where its links lead, in order.
        forms: its forms, in order.
        scripts: inline scripts, with their nonce.
        handlers: attributes that would run script, and inline styles.
    """

    links: list[str]
    forms: list[Form]
    scripts: list[str | None]
    handlers: list[str]

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links, self.forms, self.scripts, self.handlers = [], [], [], []
        self._select: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of what matters."""
        of = {name: value or "" for name, value in attrs}
        self.handlers += [f"{tag} {name}" for name in of if name.startswith("on") or name == "style"]
        self.handlers += [f"{tag} {name}" for name, value in of.items() if value.lower().startswith("javascript:")]
        match tag:
            case "a" if "href" in of:
                self.links.append(of["href"])
            case "form":
                self.forms.append(Form(of.get("action", ""), of.get("method", "get").lower()))
            case "script":
                self.scripts.append(of.get("nonce"))
            case "input" | "textarea" | "select" | "button" if "name" in of and self.forms:
                self._field(tag, of)
            case "option" if self._select is not None and self.forms:
                known = self.forms[-1].fields
                if "selected" in of or known[self._select] == "":
                    known[self._select] = of.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        """Leave a list."""
        if tag == "select":
            self._select = None

    def _field(self, tag: str, of: dict[str, str]) -> None:
        form, name = self.forms[-1], of["name"]
        if of.get("type") in ("checkbox", "radio") and "checked" not in of:
            return
        form.fields.setdefault(name, of.get("value", ""))
        if tag == "select":
            self._select = name
