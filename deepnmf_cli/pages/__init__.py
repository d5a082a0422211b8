"""Self-contained HTML pages, filled in with arrays and plain values."""
