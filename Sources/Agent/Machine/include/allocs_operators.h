// SPDX-License-Identifier: Apache-2.0
// The replaceable operators new and delete of C++: one row an operator, under its mangled name
// (Itanium C++ ABI). Everything that has one piece an operator is made from these rows: the
// exported functions and their entry points (Entry/Operators.c), and the signatures of operators
// that are hooked at their entries (Entry/Families.c). A macro can't reach Entry/exports.map; a
// test (HookedFunctionTests) names the rows that are missing there.

#ifndef ALLOCS_OPERATORS_H
#define ALLOCS_OPERATORS_H

// Enumerator, mangled name, the name that contexts have for it (ALLOCS_FUNCTION_…), form of the
// parameters: see ALLOCS_NEW_… and ALLOCS_DELETE_… below.
#define ALLOCS_NEW_OPERATORS(X)                                                                \
  X(NEW, _Znwm, NEW, PLAIN)                                                                    \
  X(NEW_ARRAY, _Znam, NEW_ARRAY, PLAIN)                                                        \
  X(NEW_NOTHROW, _ZnwmRKSt9nothrow_t, NEW, NOTHROW)                                            \
  X(NEW_ARRAY_NOTHROW, _ZnamRKSt9nothrow_t, NEW_ARRAY, NOTHROW)                                \
  X(NEW_ALIGNED, _ZnwmSt11align_val_t, NEW, ALIGNED)                                           \
  X(NEW_ARRAY_ALIGNED, _ZnamSt11align_val_t, NEW_ARRAY, ALIGNED)                               \
  X(NEW_ALIGNED_NOTHROW, _ZnwmSt11align_val_tRKSt9nothrow_t, NEW, ALIGNED_NOTHROW)             \
  X(NEW_ARRAY_ALIGNED_NOTHROW, _ZnamSt11align_val_tRKSt9nothrow_t, NEW_ARRAY, ALIGNED_NOTHROW)
#define ALLOCS_DELETE_OPERATORS(X)                                                             \
  X(DELETE, _ZdlPv, DELETE, PLAIN)                                                             \
  X(DELETE_ARRAY, _ZdaPv, DELETE, PLAIN)                                                       \
  X(DELETE_NOTHROW, _ZdlPvRKSt9nothrow_t, DELETE, NOTHROW)                                     \
  X(DELETE_ARRAY_NOTHROW, _ZdaPvRKSt9nothrow_t, DELETE, NOTHROW)                               \
  X(DELETE_SIZED, _ZdlPvm, DELETE, SIZED)                                                      \
  X(DELETE_ARRAY_SIZED, _ZdaPvm, DELETE, SIZED)                                                \
  X(DELETE_ALIGNED, _ZdlPvSt11align_val_t, DELETE, ALIGNED)                                    \
  X(DELETE_ARRAY_ALIGNED, _ZdaPvSt11align_val_t, DELETE, ALIGNED)                              \
  X(DELETE_ALIGNED_NOTHROW, _ZdlPvSt11align_val_tRKSt9nothrow_t, DELETE, ALIGNED_NOTHROW)       \
  X(DELETE_ARRAY_ALIGNED_NOTHROW, _ZdaPvSt11align_val_tRKSt9nothrow_t, DELETE, ALIGNED_NOTHROW) \
  X(DELETE_SIZED_ALIGNED, _ZdlPvmSt11align_val_t, DELETE, SIZED_ALIGNED)                       \
  X(DELETE_ARRAY_SIZED_ALIGNED, _ZdaPvmSt11align_val_t, DELETE, SIZED_ALIGNED)
#define ALLOCS_OPERATORS(X) ALLOCS_NEW_OPERATORS(X) ALLOCS_DELETE_OPERATORS(X)

// The forms of the operators: their parameters; the arguments for the operator below; for operator
// new, the alignment that is asked for, 0 for none; the positions of the arguments (struct
// allocs_signature).
#define ALLOCS_NEW_PLAIN (size_t size), (size), 0, .size = 1
#define ALLOCS_NEW_NOTHROW (size_t size, const void *nothrow), (size, nothrow), 0, .size = 1
#define ALLOCS_NEW_ALIGNED (size_t size, size_t alignment), (size, alignment), alignment, .size = 1, .alignment = 2
#define ALLOCS_NEW_ALIGNED_NOTHROW                                                                             \
  (size_t size, size_t alignment, const void *nothrow), (size, alignment, nothrow), alignment, .size = 1, .alignment = 2
#define ALLOCS_DELETE_PLAIN (void *block), (block),
#define ALLOCS_DELETE_NOTHROW (void *block, const void *nothrow), (block, nothrow),
#define ALLOCS_DELETE_SIZED (void *block, size_t size), (block, size), .size = 2
#define ALLOCS_DELETE_ALIGNED (void *block, size_t alignment), (block, alignment),
#define ALLOCS_DELETE_ALIGNED_NOTHROW (void *block, size_t alignment, const void *nothrow), (block, alignment, nothrow),
#define ALLOCS_DELETE_SIZED_ALIGNED                                                                            \
  (void *block, size_t size, size_t alignment), (block, size, alignment), .size = 2, .alignment = 3

enum allocs_operator {
#define ALLOCS_ENUMERATOR(enumerator, symbol, function, form) ALLOCS_OPERATOR_##enumerator,
  ALLOCS_OPERATORS(ALLOCS_ENUMERATOR)
#undef ALLOCS_ENUMERATOR
  ALLOCS_OPERATOR_COUNT
};

#endif
