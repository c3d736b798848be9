#include <sqlite3.h>

/// Turns off SQLite's count of its memory, which takes a lock at each allocation. Only before SQLite is first used;
/// sqlite3_config takes a variable argument list, which Swift cannot call.
static inline int lamina_sqlite_count_no_memory(void) { return sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0); }
