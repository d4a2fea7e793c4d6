// SPDX-License-Identifier: Apache-2.0
// Visibility of the agent's own names, and the warning about nullability that its headers do
// without.

#ifndef ALLOCS_HIDDEN_H
#define ALLOCS_HIDDEN_H

#pragma clang diagnostic ignored "-Wnullability-completeness"

// A name that other files of the agent may use and no other module can see.
#define ALLOCS_HIDDEN __attribute__((visibility("hidden")))

#endif
