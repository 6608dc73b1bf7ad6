"""How good models' answers to questions are whose right answers are known."""
