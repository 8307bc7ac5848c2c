"""The one judge: whether two sets of answers are the same but for rounding and ties."""
