// SPDX-License-Identifier: Apache-2.0
// Brings memory into the cache that is needed soon. Nothing waits for it, and any address may be
// given: where there is no memory, nothing happens.
static inline void recording_prefetch(const void *address) { __builtin_prefetch(address); }
