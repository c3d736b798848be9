// Foundation is linked for a parser of YAML, and with it come 34 MB of ICU's data: calendars, languages, time zones. Nothing of lamina asks for
// them: its dates are ISO 8601 and its texts are English, which FoundationEssentials does by itself.
//
// ICU looks for its data under a name that has its version. This gives the name to a table of contents without entries ("common data",
// https://unicode-org.github.io/icu/userguide/icu_data/#icu-data-file-formats), so that the linker leaves the data in its archive. A toolchain
// with another version of ICU links its data again: then the program is larger, and a test says so.
//
// Hidden, so that a Foundation that is a shared library keeps its own.
#ifndef DEBUG

#include <stdint.h>

struct common_data {
    uint16_t header_size;
    uint8_t magic[2];
    uint16_t info_size, reserved;
    uint8_t is_big_endian, charset_family, size_of_uchar, reserved_byte;
    uint8_t format[4], format_version[4], data_version[4];
    uint8_t padding[8];
    uint32_t entry_count, end;
};

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define IS_BIG_ENDIAN 1
#else
#define IS_BIG_ENDIAN 0
#endif

__attribute__((visibility("hidden"), aligned(16))) extern const struct common_data icudt76_dat;
const struct common_data icudt76_dat = {
    32, {0xda, 0x27}, 20, 0, IS_BIG_ENDIAN, 0, 2, 0, {'C', 'm', 'n', 'D'}, {1, 0, 0, 0}, {76, 1, 0, 0}, {0}, 0, 0,
};

#endif
