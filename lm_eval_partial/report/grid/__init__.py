"""The report of a grid over two updates: heat maps, tables and a page."""
