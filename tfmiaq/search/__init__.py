"""The search for bit-widths of low membership leakage."""

from tfmiaq.search.options import PolicySearch
from tfmiaq.search.results import Candidate, SearchResult
from tfmiaq.search.search import search_policy

__all__ = ["Candidate", "PolicySearch", "SearchResult", "search_policy"]
