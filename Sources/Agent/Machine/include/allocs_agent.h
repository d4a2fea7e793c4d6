// SPDX-License-Identifier: Apache-2.0
// All of the agent's private memory, and the functions by which it asks libc: one header an owner.
//
// The memory is declared in C because it is thread-local, or code in the machine's own language
// reaches it by address. Two kinds of storage are told apart by what happens to them in a child
// process:
//
// - `struct allocs_thread_block`, one for each thread, and `struct allocs_shared`, one for the
//   process, lie in mappings with MADV_WIPEONFORK. A child of fork, by whatever call it was made,
//   finds zeros there: no region table, no segment. Every path to the segment begins at one of
//   these two structs, so a child cannot write to its parent's segment.
// - `struct allocs_process` is ordinary memory, and a child has a copy of it: the functions below
//   the hooks, and where the mappings are.

#ifndef ALLOCS_AGENT_H
#define ALLOCS_AGENT_H

#include "SharedLayout.h"

#include "allocs_hidden.h"            // visibility
#include "allocs_private_atomic.h"    // atomic operations over the agent's own words

#include "allocs_stack_cache.h"       // a thread's captures of call stacks
#include "allocs_thread_block.h"      // a thread
#include "allocs_mapping_table.h"     // the table of mappings
#include "allocs_shared.h"            // the process, wiped in a child
#include "allocs_saved_state.h"       // the copy that a child takes over

#include "allocs_hooked_functions.h"  // the list of hooked functions
#include "allocs_operators.h"         // the list of C++'s operators
#include "allocs_terminal.h"          // the functions below the hooks
#include "allocs_binding.h"           // functions hooked at their entries
#include "allocs_frame_table.h"       // tables for unwinding
#include "allocs_process.h"           // the process, kept in a child

#include "allocs_inexe.h"             // the agent inside an executable
#include "allocs_libc.h"              // libc and the dynamic linker
#include "allocs_time.h"              // the time of a record

#endif
