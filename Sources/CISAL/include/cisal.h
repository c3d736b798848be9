// ISA-L's inflate (igzip_lib.h), for deflate data that is read in pieces: its state is 87 KB of tables that Swift cannot name,
// and where it stands between two blocks is in fields of it.
#ifndef LAMINA_CISAL_H
#define LAMINA_CISAL_H

#include <stddef.h>
#include <stdint.h>

typedef struct lamina_isal lamina_isal;

typedef struct {
    // How much of the input was taken, and of the output was written.
    size_t used;
    size_t written;
    // 0: it goes on; 1: the last block has ended, and all of its output was given; below 0: one of ISA-L's errors.
    int status;
} lamina_isal_step;

typedef struct {
    // Whether a block has ended, the next one has not begun, and all output was given.
    int is_between_blocks;
    // Within a block that is stored as it is: how many bytes of the input still belong to it.
    uint32_t stored_left;
    // How many bits of the input were taken and not used.
    uint32_t unread_bits;
    // The first 64 of them, the next one lowest.
    uint64_t next_bits;
    // The output before this place, up to 32 KiB. Valid until the next call.
    const uint8_t *window;
    uint32_t window_size;
} lamina_isal_place;

// NULL where memory is short.
lamina_isal *lamina_isal_new(void);
void lamina_isal_free(lamina_isal *inflater);

// At the start of deflate data.
void lamina_isal_reset(lamina_isal *inflater);

// At the start of a block: `bits` (0 to 7) bits of it come first, then the input; the window is the output before it. 0: done.
int lamina_isal_resume(
    lamina_isal *inflater, uint8_t bits, uint8_t value, const uint8_t *window, uint32_t window_size);

lamina_isal_step lamina_isal_inflate(
    lamina_isal *inflater, const void *input, size_t input_size, void *output, size_t output_size);

lamina_isal_place lamina_isal_where(const lamina_isal *inflater);

#endif
