"""Answers that are given again, without a worker: to the same question, of the same asker, to the same model."""
