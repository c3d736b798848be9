#include "lamina_xattr.h"

#include <sys/types.h>
#include <sys/xattr.h>

int64_t lamina_llistxattr(const char *path, void *list, size_t size) { return llistxattr(path, list, size); }

int64_t lamina_lgetxattr(const char *path, const char *name, void *value, size_t size) {
    return lgetxattr(path, name, value, size);
}
