"""The registry of the report's sections."""

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from jaxft.core.registry import Registry
from jaxft.report.context import ReportContext


@dataclass(frozen=True)
class Section:
    """A section of a study's page.

    Attributes:
      title: its heading.
      make: returns its HTML below the heading, or None where it does not apply to the study.
      nav: the text of the link to it at the top of the page; empty: the title.
    """

    title: str
    make: Callable[[ReportContext], Markup | None]
    nav: str = ""


SECTIONS: Registry[Section] = Registry("report section")
