"""The parts of a run: its text, its export, its outcome, what it ran on, and what the user sees."""
