// Functions whose debug information has their names alone: what they are declared in must come from elsewhere in it.
#include <cstdlib>

extern "C" void probe(const char *name);
extern "C" void leave(void);

#define INLINE static inline __attribute__((always_inline))

namespace outer {
namespace {
struct Hidden {
  INLINE int get(int value) {
    probe("static-member");  // @static-member
    return value + 1;
  }
  __attribute__((always_inline)) operator int() const {
    probe("conversion");  // @conversion
    return 3;
  }
  __attribute__((always_inline)) bool operator<(Hidden const &) const {
    probe("less");  // @less
    return true;
  }
};
}  // namespace
namespace inner {
INLINE int free_function(int value) {
  probe("free-function");  // @free-function
  return value;
}
}  // namespace inner
template <typename Item>
INLINE int generic(Item value) {
  probe("template");  // @template
  return static_cast<int>(value);
}
}  // namespace outer

static int local(int value) {
  struct Local {
    __attribute__((always_inline)) int make(int more) {
      probe("local-class");  // @local-class
      return more;
    }
  } made;
  auto lambda = [&](int more) __attribute__((always_inline)) {
    probe("lambda");  // @lambda
    return more + value;
  };
  return lambda(1) + made.make(2);
}

int main(int count, char **) {
  outer::Hidden hidden;
  int sum = outer::Hidden::get(count) + hidden + (hidden < hidden) + outer::inner::free_function(count);
  return sum + outer::generic<long>(count) + local(count) == 0;
}
