"""Lists the uploads of a `resumable-upload serve`, a JSON object a line, from its database.

    python3 tus-uploads.py DATABASE
"""

import json
import sqlite3
import sys

database = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, timeout=10)
for identifier, length, offset, metadata in database.execute(
    "SELECT upload_id, upload_length, offset, metadata FROM uploads ORDER BY created_at, rowid"
):
    metadata = json.loads(metadata) if metadata else {}
    size = None if length < 0 else length
    print(json.dumps({"id": identifier, "size": size, "offset": offset, "metadata": metadata}))
