"""What SQLite says of an index, of a copy, so that lamina is the first to open the one that a cut has left."""

import os
import shutil
import sqlite3


def copy_index(root, directory):
    """Copies the index and its log; returns where, or None where there is no index."""
    copy = os.path.join(directory, "index-copy")
    shutil.rmtree(copy, ignore_errors=True)
    os.makedirs(copy)
    if not os.path.exists(f"{root}/index.db"):
        return None
    for suffix in ("", "-wal"):
        if os.path.exists(f"{root}/index.db{suffix}"):
            shutil.copy(f"{root}/index.db{suffix}", f"{copy}/index.db{suffix}")
    return f"{copy}/index.db"


def problems(root, directory):
    """What PRAGMA integrity_check and foreign_key_check find; None where there is no index."""
    path = copy_index(root, directory)
    if not path:
        return None
    try:
        database = sqlite3.connect(path)
        try:
            found = [text for text, in database.execute("PRAGMA integrity_check") if text != "ok"]
            return found + [f"foreign key: {row}" for row in database.execute("PRAGMA foreign_key_check")]
        finally:
            database.close()
    except sqlite3.Error as error:
        return [str(error)]
