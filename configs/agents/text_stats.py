"""A program as an agent: statistics of a text.  docker-compose.yml runs a pool of them.

    swarm agent --type text --exec 'python configs/agents/text_stats.py'

The item comes as JSON on stdin; its payload is a text, or an object with one in `text`.
Lines `progress …` are reported, the last line that is JSON is the result, and what is on
stderr when the exit code is not 0 says why the item failed.
"""

from __future__ import annotations

import collections
import hashlib
import json
import re
import sys
from typing import Any

WORDS_SHOWN = 10


def statistics(text: str) -> dict[str, Any]:
    """Counts of a text, its most frequent words, and its digest."""
    words = re.findall(r"\w+", text.casefold())
    return {
        "characters": len(text),
        "lines": len(text.splitlines()),
        "words": len(words),
        "different_words": len(set(words)),
        "most_frequent": dict(collections.Counter(words).most_common(WORDS_SHOWN)),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def main() -> int:
    """Do the item on stdin; the exit code."""
    payload = json.load(sys.stdin)["payload"]
    text = payload.get("text") if isinstance(payload, dict) else payload
    if not isinstance(text, str):
        sys.stderr.write('the payload must be a text, or an object like {"text": "…"}\n')
        return 1
    sys.stdout.write(f"progress 50 read {len(text)} characters\n")
    sys.stdout.flush()
    sys.stdout.write(json.dumps(statistics(text)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
