#include "cisal.h"
#include <isa-l/igzip_lib.h>
#include <stdlib.h>

struct lamina_isal {
    struct inflate_state state;
};

lamina_isal *lamina_isal_new(void) {
    lamina_isal *inflater = malloc(sizeof *inflater);
    if (inflater) lamina_isal_reset(inflater);
    return inflater;
}

void lamina_isal_free(lamina_isal *inflater) { free(inflater); }

void lamina_isal_reset(lamina_isal *inflater) {
    isal_inflate_init(&inflater->state);
    inflater->state.crc_flag = ISAL_DEFLATE;
}

int lamina_isal_resume(
    lamina_isal *inflater, uint8_t bits, uint8_t value, const uint8_t *window, uint32_t window_size) {
    lamina_isal_reset(inflater);
    if (window_size > 0) {
        // It does not write to it.
        int result = isal_inflate_set_dict(&inflater->state, (uint8_t *)window, window_size);
        if (result != ISAL_DECOMP_OK) return result;
    }
    inflater->state.read_in = value;
    inflater->state.read_in_length = bits;
    return 0;
}

lamina_isal_step lamina_isal_inflate(
    lamina_isal *inflater, const void *input, size_t input_size, void *output, size_t output_size) {
    struct inflate_state *state = &inflater->state;
    // It counts in 32 bits.
    uint32_t available = input_size > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t)input_size;
    uint32_t room = output_size > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t)output_size;
    state->next_in = (uint8_t *)input;
    state->avail_in = available;
    state->next_out = output;
    state->avail_out = room;
    int result = isal_inflate(state);
    // Of damaged data it may say that more is left than it was given; nothing it says of them is of use.
    if (result != ISAL_DECOMP_OK || state->avail_in > available || state->avail_out > room) {
        return (lamina_isal_step){0, 0, result < 0 ? result : ISAL_INVALID_BLOCK};
    }
    lamina_isal_step step = {available - state->avail_in, room - state->avail_out, 0};
    if (state->block_state == ISAL_BLOCK_FINISH) step.status = 1;
    return step;
}

lamina_isal_place lamina_isal_where(const lamina_isal *inflater) {
    const struct inflate_state *state = &inflater->state;
    lamina_isal_place place = {0, 0, 0, 0, NULL, 0};
    // In the middle of a header the block has not begun: its bits are kept, to be read once more with what comes next.
    int is_in_header = state->block_state == ISAL_BLOCK_HDR;
    place.is_between_blocks = (is_in_header || state->block_state == ISAL_BLOCK_NEW_HDR) &&
                              state->tmp_out_valid == state->tmp_out_processed && state->write_overflow_len == 0 &&
                              state->copy_overflow_length == 0;
    uint32_t bits = state->read_in_length > 0 ? (uint32_t)state->read_in_length : 0;
    place.unread_bits = bits + (is_in_header ? 8 * (uint32_t)state->tmp_in_size : 0);
    place.next_bits = bits >= 64 ? state->read_in : state->read_in & (((uint64_t)1 << bits) - 1);
    if (state->block_state == ISAL_BLOCK_TYPE0 && (uint32_t)state->type0_block_len > bits / 8) {
        place.stored_left = (uint32_t)state->type0_block_len - bits / 8;
    }
    // What it keeps for references backward; all of it was given.
    uint32_t valid = (uint32_t)state->tmp_out_valid;
    place.window_size = valid < ISAL_DEF_HIST_SIZE ? valid : ISAL_DEF_HIST_SIZE;
    place.window = state->tmp_out_buffer + valid - place.window_size;
    return place;
}
