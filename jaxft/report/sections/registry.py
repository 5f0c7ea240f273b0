"""The registry of the report's sections."""

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from jaxft.core.registry import Registry
from jaxft.report.context import ReportContext


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
      title: heading of the section.
      make: returns the HTML below the heading, or None if the section does not apply to the study.
      nav: text of the link at the top of the page; if empty, `title`.
    """

    title: str
    make: Callable[[ReportContext], Markup | None]
    nav: str = ""


SECTIONS: Registry[Section] = Registry("report section")
