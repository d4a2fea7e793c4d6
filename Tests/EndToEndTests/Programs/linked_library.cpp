// The library of linked.cpp, or, where all is linked statically, another part of the executable.
#include "linked.h"

DEFINE_LINKED(library)

extern "C" const linked_calls *library_calls(void) { return &library_calls_; }
