// Operators of C++ that count the calls and lead on to the next definition: for a library to be preloaded, or to be compiled into
// a program.

#include <dlfcn.h>

#include <atomic>
#include <new>

std::atomic<unsigned long> calls;

void *operator new(std::size_t size) {
  static auto next = reinterpret_cast<void *(*)(std::size_t)>(dlsym(RTLD_NEXT, "_Znwm"));
  calls++;
  return next(size);
}

void operator delete(void *block) noexcept {
  static auto next = reinterpret_cast<void (*)(void *)>(dlsym(RTLD_NEXT, "_ZdlPv"));
  calls++;
  next(block);
}

void operator delete(void *block, std::size_t size) noexcept {
  static auto next = reinterpret_cast<void (*)(void *, std::size_t)>(dlsym(RTLD_NEXT, "_ZdlPvm"));
  calls++;
  next(block, size);
}
