#define OPENSSL_SUPPRESS_DEPRECATED
#include "ccrypto.h"
#include <openssl/sha.h>
#include <string.h>

// Our state has its own fixed layout, not OpenSSL's struct, so that a saved midstate survives a change of libcrypto. The
// conversion copies 112 bytes for each call, which is nothing compared with hashing.
static void load(SHA256_CTX *context, const lamina_sha256 *state) {
    memcpy(context->h, state->h, sizeof state->h);
    context->Nl = (SHA_LONG)state->length_bits;
    context->Nh = (SHA_LONG)(state->length_bits >> 32);
    memcpy(context->data, state->block, sizeof state->block);
    context->num = state->used;
    context->md_len = SHA256_DIGEST_LENGTH;
}

static void save(lamina_sha256 *state, const SHA256_CTX *context) {
    memcpy(state->h, context->h, sizeof state->h);
    state->length_bits = ((uint64_t)context->Nh << 32) | context->Nl;
    memcpy(state->block, context->data, sizeof state->block);
    state->used = context->num;
}

void lamina_sha256_init(lamina_sha256 *state) {
    SHA256_CTX context;
    memset(&context, 0, sizeof context);
    SHA256_Init(&context);
    save(state, &context);
}

void lamina_sha256_update(lamina_sha256 *state, const void *bytes, size_t count) {
    SHA256_CTX context;
    load(&context, state);
    SHA256_Update(&context, bytes, count);
    save(state, &context);
}

void lamina_sha256_final(lamina_sha256 *state, uint8_t digest[32]) {
    SHA256_CTX context;
    load(&context, state);
    SHA256_Final(digest, &context);
}
