"""Pages of HTML that need nothing beside themselves: what is filled in is arrays and plain values."""
