"""The search for bit-widths of low membership leakage."""

from tfmiaq.search.search import Candidate, SearchResult, search_policy

__all__ = ["Candidate", "SearchResult", "search_policy"]
