"""Many pairs in one report: their families and sizes, figures, and one table."""
