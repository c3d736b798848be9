// Extended attributes, which Swift's Glibc module does not carry. The path's last component is not followed.
#ifndef LAMINA_XATTR_H
#define LAMINA_XATTR_H

#include <stddef.h>
#include <stdint.h>

/// llistxattr(2): the size of the list of names, or -1 with errno.
int64_t lamina_llistxattr(const char *path, void *list, size_t size);

/// lgetxattr(2): the size of the value, or -1 with errno.
int64_t lamina_lgetxattr(const char *path, const char *name, void *value, size_t size);

#endif
