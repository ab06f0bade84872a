"""Numbers become tables, figures and a page."""
