// SHA-256 of libcrypto, by its low-level interface: the context is plain memory, so that an unfinished hash (its midstate) can
// be copied and saved. OpenSSL 3 marks that interface deprecated and keeps it; EVP hides the state.
#ifndef LAMINA_CCRYPTO_H
#define LAMINA_CCRYPTO_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint32_t h[8];
    uint64_t length_bits;
    uint8_t block[64];
    uint32_t used;
} lamina_sha256;

void lamina_sha256_init(lamina_sha256 *state);
void lamina_sha256_update(lamina_sha256 *state, const void *bytes, size_t count);
void lamina_sha256_final(lamina_sha256 *state, uint8_t digest[32]);

#endif
