"""The report as one HTML file: no network, opens from disk, on a desk and on a phone."""

from harness.report.page.build import build_page, page_of

__all__ = ["build_page", "page_of"]
