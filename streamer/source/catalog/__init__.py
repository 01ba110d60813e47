"""The relations and columns that may be exported, and what filters on them mean."""
