"""The leaderboard: records in; tables, a page and nothing that was typed by hand out."""

from benchmarks.leaderboard.command import build, leaderboard

__all__ = ["build", "leaderboard"]
