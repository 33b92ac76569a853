"""Files from outside: read within limits, and judged before TensorFlow or Keras sees them."""

from tfmiaq.loading.json_text import parse_json
from tfmiaq.loading.limits import MAX_BYTES, MAX_SECONDS, TooLargeError, check_declared, read_text

__all__ = ["MAX_BYTES", "MAX_SECONDS", "TooLargeError", "check_declared", "parse_json", "read_text"]
