"""From records to what people read: leaderboard, comparisons, claims, the report page, tables."""
