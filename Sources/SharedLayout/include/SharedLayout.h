// The one thing that the agent and its readers share: the binary layout of a segment. Start with allocs_segment.h.
#include "allocs_arena.h"
#include "allocs_atomic.h"
#include "allocs_clock.h"
#include "allocs_context.h"
#include "allocs_module.h"
#include "allocs_segment.h"
#include "allocs_slot.h"
#include "allocs_thread.h"
