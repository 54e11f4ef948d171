"""From records to what is said of them: leaderboard, comparisons, tables of a paper, reference scores."""
