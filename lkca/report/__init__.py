"""Reports: one HTML file that shows a model or a result, opens anywhere and loads nothing. docs/report.md."""
