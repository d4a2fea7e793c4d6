// SPDX-License-Identifier: Apache-2.0
// The table of the functions that Terminal.swift looks for, and where their addresses are kept.
#include "allocs_agent.h"

size_t allocs_fine_size;

#define HOOKED(name, kit, version, entry, result, parameters, operation, function, ...)  \
  {#name, (void **)&allocs_process_state.terminal.name, true,                            \
   ALLOCS_IS_ALLOCATING_##operation ? ALLOCS_FUNCTION_##function : ALLOCS_FUNCTION_UNKNOWN},
#define PASSED(name, kit, version, result, parameters) \
  {#name, (void **)&allocs_process_state.terminal.name, true, ALLOCS_FUNCTION_UNKNOWN},
#define OF_LIBC(name, member, result, parameters) \
  {#name, (void **)&allocs_process_state.terminal.member, false, ALLOCS_FUNCTION_UNKNOWN},
static const struct allocs_terminal_function functions[] = {
    ALLOCS_HOOKED_FUNCTIONS(HOOKED) ALLOCS_PASSED_FUNCTIONS(PASSED) ALLOCS_LIBC_FUNCTIONS(OF_LIBC)};

const struct allocs_terminal_function *allocs_terminal_function(uint32_t index) {
  return index < sizeof functions / sizeof *functions ? &functions[index] : NULL;
}
