// Calls every replaceable operator new and delete with every edge, and prints what a caller can rely on: one line a case.
//
//   operators [throwless]     `throwless`: without what mimalloc's C build answers by ending the process, bad_alloc
//
// As in battery.c, no line holds an address: plain and under the index, the output must be the same.

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <sys/resource.h>
#include <thread>
#include <vector>

static const int untouched = 4242;
static const size_t sizes[] = {0, 1, 8, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 100, 1000, 4096, 5000, 131072, 1 << 20, 33 << 20};
static const size_t huge[] = {PTRDIFF_MAX, size_t(PTRDIFF_MAX) + 1, SIZE_MAX, SIZE_MAX - 15, SIZE_MAX - 31, SIZE_MAX - 4096, SIZE_MAX / 4 * 3};
static const size_t alignments[] = {1, 2, 4, 8, 16, 32, 64, 128, 512, 4096, 65536};

static const char *errno_name(int number) {
  static char text[32];
  snprintf(text, sizeof text, "%d", number);
  return number == untouched ? "kept" : number == ENOMEM ? "ENOMEM" : text;
}

static void report(const char *what, size_t alignment, size_t size, void *block) {
  int number = errno;
  printf("%s(%zu, align %zu): ", what, size, alignment);
  if (block == nullptr) {
    printf("null, errno %s\n", errno_name(number));
    return;
  }
  printf("block, errno %s, %s\n", errno_name(number), uintptr_t(block) % alignment == 0 ? "aligned" : "not aligned");
  size_t edge = size < 4096 ? size : 4096;
  memset(block, 0x5A, edge);
  memset((char *)block + size - edge, 0xA5, edge);
}

// A call with errno `untouched`, whatever it ends in; bad_alloc is an answer as good as any.
template <class Call> static void *attempt(const char *what, size_t alignment, size_t size, Call call) {
  void *block = nullptr;
  errno = untouched;
  try {
    block = call();
    report(what, alignment, size, block);
  } catch (const std::bad_alloc &failure) {
    printf("%s(%zu, align %zu): %s\n", what, size, alignment, failure.what());
  }
  return block;
}

template <class Call> static void release(const char *what, Call call) {
  errno = untouched;
  call();
  if (errno != untouched) printf("%s: errno changed to %s\n", what, errno_name(errno));
}

static size_t promised(size_t size) {
  size_t alignment = 1;
  while (alignment < 16 && alignment * 2 <= size) alignment *= 2;
  return alignment;
}

static bool throwless;
static const size_t largest = 33 << 20;

static void plain(size_t size) {
  if (throwless && size > largest) {
    attempt("new nothrow", 1, size, [&] { return ::operator new(size, std::nothrow); });
    attempt("new[] nothrow", 1, size, [&] { return ::operator new[](size, std::nothrow); });
    return;
  }
  void *p = attempt("new", promised(size), size, [&] { return ::operator new(size); });
  release("delete", [&] { ::operator delete(p); });
  p = attempt("new", promised(size), size, [&] { return ::operator new(size); });
  release("sized delete", [&] { ::operator delete(p, size); });
  p = attempt("new nothrow", promised(size), size, [&] { return ::operator new(size, std::nothrow); });
  release("nothrow delete", [&] { ::operator delete(p, std::nothrow); });
  p = attempt("new[]", promised(size), size, [&] { return ::operator new[](size); });
  release("delete[]", [&] { ::operator delete[](p); });
  p = attempt("new[]", promised(size), size, [&] { return ::operator new[](size); });
  release("sized delete[]", [&] { ::operator delete[](p, size); });
  p = attempt("new[] nothrow", promised(size), size, [&] { return ::operator new[](size, std::nothrow); });
  release("nothrow delete[]", [&] { ::operator delete[](p, std::nothrow); });
}

static void aligned(size_t size, size_t by) {
  std::align_val_t alignment{by};
  // libstdc++ rounds the size up to the alignment without a look at overflow.
  if (size > SIZE_MAX - 8 || size > SIZE_MAX - by) return;
  if (throwless && size > largest) {
    attempt("aligned new nothrow", by, size, [&] { return ::operator new(size, alignment, std::nothrow); });
    attempt("aligned new[] nothrow", by, size, [&] { return ::operator new[](size, alignment, std::nothrow); });
    return;
  }
  void *p = attempt("aligned new", by, size, [&] { return ::operator new(size, alignment); });
  release("aligned delete", [&] { ::operator delete(p, alignment); });
  p = attempt("aligned new", by, size, [&] { return ::operator new(size, alignment); });
  release("aligned sized delete", [&] { ::operator delete(p, size, alignment); });
  p = attempt("aligned new nothrow", by, size, [&] { return ::operator new(size, alignment, std::nothrow); });
  release("aligned nothrow delete", [&] { ::operator delete(p, alignment, std::nothrow); });
  p = attempt("aligned new[]", by, size, [&] { return ::operator new[](size, alignment); });
  release("aligned delete[]", [&] { ::operator delete[](p, alignment); });
  p = attempt("aligned new[]", by, size, [&] { return ::operator new[](size, alignment); });
  release("aligned sized delete[]", [&] { ::operator delete[](p, size, alignment); });
  p = attempt("aligned new[] nothrow", by, size, [&] { return ::operator new[](size, alignment, std::nothrow); });
  release("aligned nothrow delete[]", [&] { ::operator delete[](p, alignment, std::nothrow); });
}

// MARK: the new handler

static int handled;
static int patience;
static void handler() {
  if (++handled == patience) std::set_new_handler(nullptr);
}
static void throwing_handler() {
  handled++;
  throw std::bad_alloc();
}

static void handlers() {
  for (patience = 1; patience <= 3; patience++) {
    for (int kind = 0; kind < 4; kind++) {
      handled = 0;
      std::set_new_handler(handler);
      const char *answer = "block";
      try {
        void *p = kind == 0   ? ::operator new(PTRDIFF_MAX)
                  : kind == 1 ? ::operator new(PTRDIFF_MAX, std::nothrow)
                  : kind == 2 ? ::operator new[](PTRDIFF_MAX)
                              : ::operator new(PTRDIFF_MAX, std::align_val_t(64));
        if (p == nullptr) answer = "null";
      } catch (const std::bad_alloc &) {
        answer = "bad_alloc";
      }
      printf("handler that gives up after %d, kind %d: called %d times, %s\n", patience, kind, handled, answer);
      std::set_new_handler(nullptr);
    }
  }
  handled = 0;
  std::set_new_handler(throwing_handler);
  void *p = ::operator new(PTRDIFF_MAX, std::nothrow);
  printf("handler that throws, nothrow: called %d times, %s\n", handled, p == nullptr ? "null" : "block");
  handled = 0;
  try {
    p = ::operator new(PTRDIFF_MAX);
  } catch (const std::bad_alloc &) {
    printf("handler that throws: called %d times, bad_alloc\n", handled);
  }
  std::set_new_handler(nullptr);
}

// A handler that frees memory, so that the second attempt succeeds.
static void *reserve;
static void giving_handler() {
  handled++;
  ::operator delete(reserve);
  reserve = nullptr;
  std::set_new_handler(nullptr);
}

static void handler_with_memory() {
  FILE *file = fopen("/proc/self/statm", "r");
  unsigned long pages = 0;
  if (file == nullptr || fscanf(file, "%lu", &pages) != 1) abort();
  fclose(file);
  rlimit before, limit;
  getrlimit(RLIMIT_AS, &before);
  limit = before;
  limit.rlim_cur = pages * 4096 + (700ull << 20);
  setrlimit(RLIMIT_AS, &limit);
  reserve = ::operator new(600ull << 20);
  handled = 0;
  std::set_new_handler(giving_handler);
  void *p = nullptr;
  try {
    p = ::operator new(500ull << 20);
  } catch (const std::bad_alloc &) {
  }
  printf("handler that frees: %s\n", handled <= 1 ? "called at most once" : "called again");
  ::operator delete(p);
  if (reserve != nullptr) ::operator delete(reserve);
  std::set_new_handler(nullptr);
  setrlimit(RLIMIT_AS, &before);
}

// MARK: what the language builds on them

struct alignas(256) Wide {
  char bytes[300];
};
struct Throwing {
  Throwing() { throw std::runtime_error("constructor"); }
  char bytes[64];
};

// What dlsym has to say is kept for the thread until it asks, whatever is allocated in between. Called first, so that
// these are the first calls of the operators.
static void pending_error() {
  dlsym(RTLD_DEFAULT, "no_such_function");
  int *one = new int(1);
  delete one;
  int *several = new int[100]();
  delete[] several;
  Wide *wide = new Wide;
  delete wide;
  const char *error = dlerror();
  printf("after dlsym and new: %s\n", error != nullptr ? error : "no error");
}

static void language() {
  volatile size_t count = 10;
  std::unique_ptr<Wide> wide(new Wide);
  std::unique_ptr<Wide[]> several(new Wide[count]);
  printf("over-aligned objects: %s\n", uintptr_t(wide.get()) % 256 == 0 && uintptr_t(several.get()) % 256 == 0 ? "aligned" : "not aligned");
  for (int i = 0; i < 3; i++) {
    try {
      delete new Throwing;
    } catch (const std::runtime_error &failure) {
      printf("thrown by a %s\n", failure.what());
    }
  }
  count = SIZE_MAX;
  try {
    delete[] new int[count];
  } catch (const std::bad_array_new_length &) {
    printf("bad_array_new_length\n");
  }
  std::map<std::string, std::vector<int>> map;
  for (int i = 0; i < 1000; i++) map[std::to_string(i * 7919 % 1000)].push_back(i);
  size_t total = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; i++) threads.emplace_back([i] { delete new std::string(size_t(i) + 100, 'x'); });
  for (auto &thread : threads) thread.join();
  for (auto &entry : map) total += entry.second.size() * entry.first.size();
  printf("a map of vectors: %zu\n", total);
}

int main(int argc, char **argv) {
  pending_error();
  throwless = argc > 1 && strcmp(argv[1], "throwless") == 0;
  for (size_t size : sizes) plain(size);
  for (size_t size : huge) plain(size);
  for (size_t by : alignments) {
    for (size_t size : sizes) aligned(size, by);
    for (size_t size : huge) aligned(size, by);
  }
  if (!throwless) {
    handlers();
    handler_with_memory();
  }
  language();
  printf("done\n");
  return 0;
}
