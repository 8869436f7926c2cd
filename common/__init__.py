"""Everything that two papers need. Knows no paper."""
